"""The page as a whole: complete, self-contained, accessible, and true to the numbers."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import neuroalign
from neuroalign.errors import UserError
from neuroalign.io import read_tsv, write_tsv
from neuroalign.report.build import build_report

SECTIONS = (
    *("headline", "dataset", "stimuli", "bold", "delays", "training", "retrieval", "gallery"),
    *("contributions", "codes", "summary", "controls", "baselines", "ceilings", "adaptation", "provenance"),
)
_VOID = {"meta", "link", "img", "br", "hr", "input"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Collects elements and checks that tags nest."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"closes nothing: {tag}"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def html(made, tmp_path_factory) -> str:
    destination = tmp_path_factory.mktemp("report") / "index.html"
    build_report(made.output, destination, made.config, truth_dir=made.truth)
    assert [p.name for p in destination.parent.iterdir()] == ["index.html"]
    return destination.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_every_section_is_there_once_and_linked(page):
    keys = [a["id"] for a in page.all("section")]
    assert keys == list(SECTIONS)
    targets = [a["href"] for a in page.all("a")]
    assert {f"#{key}" for key in SECTIONS} <= set(targets)
    assert all(t.startswith("#") for t in targets)


def test_every_image_is_inline_and_described(page):
    images = page.all("img")
    assert len(images) > 10
    for image in images:
        kind, content = image["src"].split(";base64,")
        assert kind in ("data:image/svg+xml", "data:image/png", "data:image/jpeg")
        assert base64.b64decode(content, validate=True)
        assert len(image["alt"]) > 20


def test_nothing_is_asked_of_the_network_and_no_script_runs(html, page):
    assert not page.all("script")
    assert not page.all("iframe")
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            assert not re.match(r"(?i)(https?:)?//", attributes.get(name) or "")
        assert not any(name.startswith("on") for name in attributes)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_it_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(th.get("scope") == "col" for th in page.all("th"))


def test_the_page_is_small_and_the_same_every_time(made, html, tmp_path):
    assert len(html) < 8e6
    build_report(made.output, tmp_path / "again.html", made.config, truth_dir=made.truth)
    again = (tmp_path / "again.html").read_text(encoding="utf-8")
    # The last section names the commit, which may move while tests run.
    assert again.split('id="provenance"')[0] == html.split('id="provenance"')[0]


def test_numbers_stand_beside_chance(page):
    assert (
        "Above chance: the fused model beats chance (top-1) in both directions in all 3 subjects."
        in page.words
    )
    assert "17.0 % chance 2.5 % · 13.0 % to 21.0 %" in page.words.replace("\N{NO-BREAK SPACE}", " ")


def test_the_learning_curve_is_told_for_both_questions(page):
    words = page.words.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "New people, clips that others were trained on (known content), fMRI → video: the shared model finds 10.0 % (chance 2.5 %), "
        "after 10 minutes 15.0 %: a difference of +5.0 points (+2.0 to +8.0), more than the shared model."
        in words
    )
    assert "(new content), video → fMRI: the shared model finds 5.0 %" in words
    assert "not told apart from the shared model" in words


def test_configuration_and_versions_are_exact(page, made):
    assert "bids_dir: results/demo/bids" in page.words
    assert neuroalign.__version__ in page.words
    assert f"numpy {np.__version__}" in page.words


def test_an_empty_folder_gives_a_page_that_says_what_is_absent(made, tmp_path):
    (tmp_path / "nothing").mkdir()
    build_report(tmp_path / "nothing", tmp_path / "page.html", made.config)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    assert not page.all("img")
    for name in (
        "metrics.tsv",
        "clips.tsv",
        "_qc.h5",
        "delays.tsv",
        "history.tsv",
        "usage.tsv",
        "controls.tsv",
        "ceilings.tsv",
        "learning_curve.tsv",
    ):
        assert name in page.words


@pytest.mark.parametrize(
    "absent",
    [
        ("index", "evaluation/metrics.tsv", "models/seed-0/ntcl"),
        ("pairs", "evaluation/comparisons.tsv"),
        ("roi", "evaluation/rankings.tsv", "models/seed-0/vq"),
    ],
)
def test_partial_results_are_survived(made, tmp_path, absent):
    shutil.copytree(made.output, tmp_path / "results")
    for name in absent:
        target = tmp_path / "results" / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    build_report(tmp_path / "results", tmp_path / "page.html", made.config, truth_dir=made.truth)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert [a["id"] for a in page.all("section")] == list(SECTIONS)
    said = [a for a in page.all("p") if a.get("class") == "absent"]
    assert len(said) >= len(absent)


def test_a_damaged_table_is_one_sentence_and_leaves_no_page(made, tmp_path):
    (tmp_path / "results" / "evaluation").mkdir(parents=True)
    (tmp_path / "results" / "evaluation" / "metrics.tsv").write_bytes(b"model\tseed\n\xff\xfe\x00\tx\ty\tz\n")
    with pytest.raises(UserError, match=r"metrics\.tsv"):
        build_report(tmp_path / "results", tmp_path / "report" / "index.html", made.config)
    assert not (tmp_path / "report").exists()


def test_odd_labels_cannot_become_markup(made, tmp_path):
    evil = "<script>alert(1)</script>\"'&$x$"
    shutil.copytree(made.output, tmp_path / "results")
    for name in (
        "evaluation/metrics.tsv",
        "evaluation/controls.tsv",
        "evaluation/rankings.tsv",
        "pairs/clips.tsv",
    ):
        path = tmp_path / "results" / name
        rows = read_tsv(path, text=("subject", "seed", "run", "session"))
        for column in ("subject", "stimulus", "control"):
            if column in rows:
                rows[column] = rows[column].replace({"01": evil, "film-4": evil, "shift": evil})
        write_tsv(path, rows)
    config = {**made.config, "report": {**made.config["report"], "title": f"</title>{evil}"}}
    build_report(tmp_path / "results", tmp_path / "page.html", config, truth_dir=made.truth)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not page.all("script")
    assert "<script" not in html
    assert evil in page.words


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to open the page")
def test_a_browser_shows_every_image_without_an_error(made, tmp_path):
    destination = tmp_path / "index.html"
    build_report(made.output, destination, made.config, truth_dir=made.truth)
    # A copy with a probe: the report itself holds no script.
    probe = (
        "<script>window.onload=()=>{const i=[...document.images];"
        "document.title=`probe ${i.length} ${i.filter(x=>!x.complete||!x.naturalWidth).length} "
        "${performance.getEntriesByType('resource').filter(r=>!r.name.startsWith('data:')).length} "
        "${document.documentElement.scrollWidth<=innerWidth}`}</script></body>"
    )
    copy = tmp_path / "probe.html"
    copy.write_text(destination.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *(
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--enable-logging=stderr",
                "--v=0",
            ),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"),
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    images, broken, requests, fits = re.search(
        r"<title>probe (\d+) (\d+) (\d+) (\w+)</title>", done.stdout
    ).groups()
    assert int(images) == len(Page(destination.read_text(encoding="utf-8")).all("img"))
    assert (broken, requests, fits) == ("0", "0", "true")
    assert "CONSOLE" not in done.stderr
