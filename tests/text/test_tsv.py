"""Captions that users bring: tables and subtitles, and the windows that they fall into."""

from __future__ import annotations

import codecs
import logging
from time import process_time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroalign.errors import UserError
from neuroalign.text.tsv import (
    Said,
    captions_problems,
    check_end,
    find_all_captions,
    find_captions,
    read_said,
    window_captions,
    without_captions,
)

HEADER = "onset\tduration\tcaption\n"


def _read(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(row.onset_s, row.duration_s, row.caption) for row in read_said(path)]


def test_a_table_in_any_order_with_other_columns(tmp_path):
    content = (
        "rater\tcaption\tonset\tduration\n\n"
        "A\ta dog   runs \t2.5\t1\nB\tempty rows and n/a say nothing\t0\t0.5\n"
        "A\t\t1\t1\nA\tn/a\tn/a\tn/a\nB\tat the same time\t2.5\t0\n"
    )
    assert _read(tmp_path / "film.tsv", content) == [
        (0.0, 0.5, "empty rows and n/a say nothing"),
        (2.5, 1.0, "a dog runs"),
        (2.5, 0.0, "at the same time"),
    ]


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
    ],
)
def test_encodings_and_line_ends(tmp_path, encode):
    content = encode(HEADER + "1\t2\tein Kätzchen – 猫\u2028läuft\n3\t1\tb\n")
    assert _read(tmp_path / "film.tsv", content) == [(1.0, 2.0, "ein Kätzchen – 猫 läuft"), (3.0, 1.0, "b")]


def test_quotes_are_those_of_spreadsheets_or_part_of_the_caption(tmp_path):
    content = HEADER + '0\t1\t"she says ""no"", and goes"\n1\t1\t"No!" he says\n2\t1\tan 8" disk\n3\t1\t"a"\n'
    assert [row[2] for row in _read(tmp_path / "film.tsv", content)] == [
        'she says "no", and goes',
        '"No!" he says',
        'an 8" disk',
        "a",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("onset\tcaption\n0\ta\n", "no column 'duration'.*found onset, caption"),
        ("onset\tduration\tcaptions\n", "no column 'caption'.*did you mean 'captions'"),
        ("onset,duration,caption\n0,1,a\n", "not separated by tabs"),
        ("0\t1\ta dog\n", "no column 'onset'"),
        (
            HEADER + "0\t1\ta\n00:01\t1\tb\n",
            r"line 3: the onset is '00:01'; give seconds from stimulus start\.",
        ),
        (HEADER + "1,5\t1\tb\n", "'1,5'.*with a point"),
        (HEADER + "n/a\t1\tb\n", "the onset is 'n/a'"),
        (HEADER + "0\tn/a\tb\n", r"the duration is 'n/a'; give seconds \(0 for a moment\)"),
        (HEADER + "0\tinf\tb\n", "the duration is 'inf'"),
        (HEADER + "0\t-1\tb\n", "negative"),
        (HEADER + "0\t1\ta\tb\n", "line 2: 4 cells"),
        (HEADER + '0\t2\t"a dog\nbarks"\n', r"line 3: no row .*1 cell, beginning with 'barks\"'.*line break"),
        (HEADER + '0\t2\t"a dog\nbarks\tloud"\n', "line 3: the onset is 'barks'"),
        (HEADER + "0\t2\ta\n4  2  a cat sleeps\n", "line 3: no row .*put tabs between cells"),
        (HEADER + "0\t2\ta\n4\n", "line 3: no row"),
        (HEADER.encode() + b"0\t1\ta caf\xe9\n", r"not text in UTF-8 \(line 2\)"),
        ((HEADER + "0\t1\ta\n").encode("utf-16-le"), "zero bytes"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, content, words):
    with pytest.raises(UserError, match=words) as caught:
        _read(tmp_path / "film.tsv", content)
    assert "\n" not in str(caught.value)
    assert "film.tsv" in str(caught.value)


def test_a_header_in_any_case(tmp_path):
    assert _read(tmp_path / "film.tsv", "Onset\tDURATION\tCaption\n0\t1\tA dog\n") == [(0.0, 1.0, "A dog")]


@pytest.mark.parametrize("name", ["film.tsv", "film.vtt", "film.srt"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_says_nothing_as_one_with_only_a_header_does(tmp_path, name, content):
    assert _read(tmp_path / name, content) == []


def test_rows_that_lost_tabs_at_their_end(tmp_path):
    assert _read(tmp_path / "film.tsv", HEADER + "0\t1\n1\t1\ta\t\t\n") == [(1.0, 1.0, "a")]


VTT = """WEBVTT - a film

NOTE not shown

1
00:01.000 --> 00:00:02.500 align:start position:10%
<v Roger>Two &amp; <i>two</i>
lines

00:00:00.500 --> 00:00:01.000
First.
"""
SRT = "1\r\n00:00:00,500 --> 00:00:01,000\r\n{\\an8}First.\r\n\r\n2\r\n00:00:01,000 --> 00:00:02,500\r\n<b>Two & two</b>\r\nlines\r\n"


@pytest.mark.parametrize(("name", "content"), [("film.vtt", VTT), ("film.srt", SRT)])
def test_subtitles(tmp_path, name, content):
    assert _read(tmp_path / name, content) == [(0.5, 0.5, "First."), (1.0, 1.5, "Two & two lines")]


def test_subtitles_without_empty_lines_between(tmp_path):
    cues = [
        f"{k + 1}\n00:00:{k:02d},000 --> 00:00:{k:02d},500\n{words}\n"
        for k, words in enumerate(("a", "in\n1984", "b"))
    ]
    found = _read(tmp_path / "film.srt", "".join(cues))
    assert [row[2] for row in found] == ["a", "in 1984", "b"]
    # A number that is said stays where an empty line ends the cue.
    assert _read(tmp_path / "apart.srt", "\n".join(cues)) == found


def test_subtitles_are_read_in_one_pass(tmp_path):
    """Of lines of text no more is copied than there is, however many cues there are."""
    cue = "00:00:01,000 --> 00:00:02,000\na\n\n"

    def seconds(n):
        (tmp_path / "film.srt").write_text(n * cue)
        begin = process_time()
        assert len(read_said(tmp_path / "film.srt")) == n
        return process_time() - begin

    few = min(seconds(1000) for _ in range(3))
    # Thirty times as long takes thirty times as long, not nine hundred.
    assert seconds(30000) < 90 * few


def test_subtitles_without_a_cue(tmp_path):
    assert _read(tmp_path / "silent.vtt", "WEBVTT\n\n") == []
    with pytest.raises(UserError, match="no subtitles"):
        _read(tmp_path / "film.srt", "a dog runs\n")
    with pytest.raises(UserError, match="line 2: the subtitle ends before it begins"):
        _read(tmp_path / "film.srt", "1\n00:00:02,000 --> 00:00:01,000\na\n")


def test_files_are_found_by_the_name_of_the_stimulus(tmp_path):
    (tmp_path / "sitcom1.tsv").write_text(HEADER)
    (tmp_path / "news.srt").write_text(SRT)
    assert find_captions(tmp_path, "sitcom1") == tmp_path / "sitcom1.tsv"
    with pytest.raises(
        UserError, match=r"no captions 'sitcom2.tsv' for that stimulus; did you mean 'sitcom1'\?"
    ):
        find_captions(tmp_path, "sitcom2")
    # What is another stimulus's is not what was meant.
    with pytest.raises(UserError, match=r"for that stimulus; found news\.$"):
        find_captions(tmp_path, "sitcom2", ["sitcom1", "sitcom2"])
    (tmp_path / "upper.TSV").write_text("ONSET\tDuration\tcaption\n0\t1\ta\n")
    (tmp_path / "SUB.Srt").write_text(SRT)
    assert find_captions(tmp_path, "upper") == tmp_path / "upper.TSV"
    assert len(read_said(find_captions(tmp_path, "SUB"))) == 2
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(UserError, match=r"folder\.tsv is a folder"):
        find_captions(tmp_path, "folder")
    with pytest.raises(UserError, match="captions_dir is not set"):
        find_captions(None, "news")
    with pytest.raises(UserError, match=r"text\.captions_dir .* is not a folder"):
        find_captions(tmp_path / "none", "news")
    (tmp_path / "gone.tsv").symlink_to(tmp_path / "elsewhere.tsv")
    with pytest.raises(UserError, match="a link to"):
        find_captions(tmp_path, "gone")


def test_some_stimuli_may_have_no_captions(tmp_path):
    stimuli = ["film1", "film2", "news", "quiet", "empty"]
    (tmp_path / "film1.tsv").write_text(HEADER + "0\t1\ta\n")
    (tmp_path / "quiet.tsv").write_text(HEADER)
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "newz.vtt").write_text(VTT)
    files, problems = find_all_captions(tmp_path, stimuli)
    assert files == {"film1": tmp_path / "film1.tsv"}
    assert problems == []
    assert without_captions(tmp_path, files, stimuli) == (
        f"4 of 5 stimuli have no captions in {tmp_path}: film2, news (did you mean 'newz'?), quiet, empty; "
        "they take part by their video alone"
    )
    assert without_captions(tmp_path, files, ["film1"]) is None
    many = without_captions(tmp_path, files, [f"x{k}" for k in range(9)])
    assert "9 of 9 stimuli" in many
    assert "x4 and 4 more; they" in many
    assert find_all_captions(tmp_path, ["quiet", "gone"]) == (
        {},
        [f"No file in text.captions_dir {tmp_path} holds a caption; write some, or set text.source to none."],
    )
    # A file that cannot be used is a problem as ever.
    (tmp_path / "film2.tsv").write_text("onset\tcaption\n")
    assert "no column 'duration'" in find_all_captions(tmp_path, stimuli)[1][0]


def test_many_absent_files_share_a_sentence(tmp_path):
    _, problems = find_all_captions(tmp_path, [f"film{k}" for k in range(9)])
    assert problems == [
        f"9 of 9 stimuli have no captions in {tmp_path}, among them film0.tsv, film1.tsv, film2.tsv; put their files "
        "there, or set text.captions_dir to where they are."
    ]


def _said(*rows):
    return [Said(onset, duration, caption, k + 2) for k, (onset, duration, caption) in enumerate(rows)]


def test_captions_after_the_end_of_the_film(caplog):
    rows = _said((0, 1, "a"), (5, 1, "b"), (12.5, 1, "c"))
    with caplog.at_level(logging.WARNING):
        check_end("film.tsv", rows, 13)
        assert not caplog.records
        check_end("film.tsv", rows, 10)
    assert (
        "1 of 3 captions begin after the end of the film at 10 s, the first at 12.5 s (line 4)" in caplog.text
    )
    with pytest.raises(UserError, match=r"2 of 3 captions begin after the end.*in seconds"):
        check_end("film.tsv", rows, 4)
    with pytest.raises(UserError, match="the only caption begins after"):
        check_end("film.tsv", _said((4000, 1000, "in milliseconds")), 10)


def test_problems_are_found_beside_the_film(tmp_path, film_file, caplog):
    (tmp_path / "ok.tsv").write_text(HEADER + "9\t5\ta\n0\t20.5\tb\n0\t20\tc\n")
    (tmp_path / "late.tsv").write_text(HEADER + "9000\t1000\ta\n")
    (tmp_path / "no_film.tsv").write_text(HEADER + "9000\t1000\ta\n")
    films = {"ok": str(film_file), "late": str(film_file), "no_film": str(tmp_path / "no.mp4"), "gone": ""}
    with caplog.at_level(logging.WARNING):
        problems = list(captions_problems(tmp_path, films))
        assert len(problems) == 1
        assert "late.tsv: the only caption begins after the end of the film at 10 s" in problems[0]
        assert f"1 of 4 stimuli have no captions in {tmp_path}: gone; " in caplog.text
        assert "split.guard_s" not in caplog.text
        list(captions_problems(tmp_path, films, 20.0))
    assert "ok.tsv: 1 of 3 captions last longer than split.guard_s (20 s), the first in line 3" in caplog.text


def _naive(said, times, window_s):
    """For every window look at every caption."""
    found = []
    for time in times:
        begin, end = time - window_s / 2, time + window_s / 2
        words = []
        for row in said:
            stop = row.onset_s + row.duration_s
            holds = begin <= row.onset_s < end if row.duration_s == 0 else row.onset_s < end and stop > begin
            if holds and row.caption not in words:
                words.append(row.caption)
        found.append(" ".join(words))
    return found


# Quarters of a second are exact, so that the naive version needs no tolerance.
_quarters = st.integers(0, 60).map(lambda n: n / 4)
_rows = st.tuples(
    _quarters, st.integers(0, 20).map(lambda n: n / 4), st.sampled_from(["a dog", "a cat", "it runs"])
)


@given(st.lists(_rows, max_size=12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 20))
def test_windows_have_the_captions_that_hold_in_them(rows, window, stride, count):
    said = _said(*sorted(rows, key=lambda row: row[0]))
    times = np.arange(count) * stride / 4 + window / 8
    assert window_captions(said, times, window / 4) == _naive(said, times, window / 4)


def test_windows_in_gaps_are_empty_and_edges_only_touch():
    said = _said((0, 2, "a"), (2, 1, "b"), (7, 0, "now"), (7.1, 0.2, "soon"))
    times = np.arange(10) + 0.5
    assert window_captions(said, times, 1.0) == ["a", "a", "b", "", "", "", "", "now soon", "", ""]
    # Thirds of a second are not exact in binary: an edge is an edge all the same.
    third = _said(*((k / 3, 1 / 3, str(k)) for k in range(9)))
    assert window_captions(third, (np.arange(9) + 0.5) / 3, 1 / 3) == [str(k) for k in range(9)]


def test_the_example_of_the_docs(root, tmp_path):
    page = (root / "docs" / "text.md").read_text(encoding="utf-8")
    table, expected = (page.split(f"```{kind}\n")[1].split("```")[0] for kind in ("tsv", "text"))
    (tmp_path / "film.tsv").write_text(table)
    found = window_captions(read_said(tmp_path / "film.tsv"), np.arange(1, 12, 2), 2)
    assert [f"{2 * k}-{2 * k + 2}\t{words}" for k, words in enumerate(found)] == expected.splitlines()
