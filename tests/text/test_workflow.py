"""Captions in the plan, in dry runs, and in what is checked before anything runs."""

from __future__ import annotations

import logging
import shutil

import h5py
import numpy as np
import pytest
import yaml

from neuroalign.config import parse_config
from neuroalign.errors import Problems
from neuroalign.modules import source_files
from neuroalign.plan import make_plan
from neuroalign.validate import validate

HEADER = "onset\tduration\tcaption\n"


@pytest.fixture
def demo(tmp_path):
    return {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"simulate": {}, "bids_dir": str(tmp_path / "demo/bids")},
    }


@pytest.fixture
def brought(demo, tmp_path):
    """Captions for every film of the demo."""
    (tmp_path / "captions").mkdir()
    for stimulus in make_plan(demo).stimuli:
        (tmp_path / f"captions/{stimulus}.tsv").write_text(HEADER + "0\t1\ta dog runs\n")
    return demo | {"text": {"source": "tsv", "captions_dir": str(tmp_path / "captions")}}


@pytest.fixture
def snakemake(root, command, tmp_path):
    """A function: run Snakemake on a configuration; what it printed."""

    def run(config: dict, *arguments: str) -> str:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        options = ["--snakefile", root / "Snakefile", "--configfile", "config.yaml", "--cores", "2"]
        result = command("snakemake", *options, *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    return run


def _jobs(output: str) -> dict[str, int]:
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("job ") and "count" in line) + 2
    rows = [line.split()[:2] for line in lines[start : lines.index("", start)]]
    return {rule: int(count) for rule, count in rows}


def test_without_text_nothing_is_captioned(demo):
    plan = make_plan(demo)
    assert plan.captions_files == []
    assert "blip2" not in plan.weights
    assert "text" not in plan.weights


def test_a_dry_run_shows_captions_by_blip2(snakemake, demo):
    output = snakemake(demo | {"text": {"source": "blip2"}}, "-n")
    jobs = _jobs(output)
    assert jobs["describe"] == jobs["caption"] == jobs["normalise"] == 8
    assert jobs["weights"] == 2
    describe, caption = (
        output.split(f"rule {name}:")[1].split("rule ")[0] for name in ("describe", "caption")
    )
    assert "weights/blip2/weights.json" in describe
    assert "gpu=1" in describe
    # Another text model does not describe a film again, and what it does is quick without a GPU.
    assert "weights/text/weights.json" in caption
    assert "weights/blip2" not in caption
    assert "gpu=1" not in caption
    assert "captions/" in output.split("rule pair:")[1].split("output:")[0]


def test_a_dry_run_shows_captions_of_tables(snakemake, brought):
    output = snakemake(brought, "-n")
    jobs = _jobs(output)
    assert jobs["caption"] == 8
    # The text model's; words need none.
    assert jobs["weights"] == 1
    assert "describe" not in jobs


def test_what_each_step_depends_on(demo):
    def code(module):
        return {path.rsplit("neuroalign/")[-1] for path in source_files(f"neuroalign.text.{module}")}

    assert {"text/blip2.py", "video/journal.py"} <= code("described") - code("build")
    assert {"text/embedding.py", "text/tsv.py", "text/captions.py"} <= code("build") - code("described")
    assert make_plan(demo | {"text": {"source": "blip2", "device": "cpu"}}).describe_gpus == 0


def test_where_features_are_brought_films_are_looked_at_only_by_blip2(brought, tmp_path):
    (tmp_path / "features").mkdir()
    for stimulus in make_plan(brought).stimuli:
        with h5py.File(tmp_path / f"features/{stimulus}.h5", "w") as file:
            file["times"], file["features"] = np.arange(8.0), np.zeros((8, 3), np.float32)
    values = brought | {"video": {"backbone": "precomputed", "precomputed_dir": str(tmp_path / "features")}}
    plan = make_plan(values)
    stimulus = plan.stimuli[0]
    assert plan.mezzanine_files == []
    assert plan.captions_inputs(stimulus)["film"] == str(tmp_path / f"features/{stimulus}.h5")
    assert plan.captions_inputs(stimulus)["said"] == str(tmp_path / f"captions/{stimulus}.tsv")
    plan = make_plan(values | {"text": {"source": "blip2"}})
    assert plan.captions_inputs(stimulus)["film"] == f"{plan.out}/stimuli/{stimulus}.mp4"
    assert len(plan.mezzanine_files) == 8


def test_captions_that_cannot_be_used_stop_the_plan_and_are_told_by_validate(brought, tmp_path):
    assert validate(parse_config(brought)) == []
    films = make_plan(brought).stimuli
    (tmp_path / f"captions/{films[1]}.tsv").write_text("onset\tcaption\n")
    with pytest.raises(Problems) as error:
        make_plan(brought)
    (column,) = error.value.problems
    assert f"{films[1]}.tsv has no column 'duration'" in column
    assert validate(parse_config(brought)) == error.value.problems
    for film in films:
        (tmp_path / f"captions/{film}.tsv").unlink()
    with pytest.raises(Problems, match="8 of 8 stimuli have no captions"):
        make_plan(brought)


def test_captions_are_made_for_the_films_that_have_them(snakemake, brought, tmp_path, caplog):
    films = make_plan(brought).stimuli
    (tmp_path / f"captions/{films[0]}.tsv").rename(tmp_path / f"captions/{films[0]}x.tsv")
    (tmp_path / f"captions/{films[2]}.tsv").write_text("")
    plan = make_plan(brought)
    assert plan.captioned == [films[1], *films[3:]]
    assert plan.captions_files == [f"{plan.out}/captions/{film}.h5" for film in plan.captioned]
    shown = {film: plan.look_inputs(film).get("captions") for film in films}
    assert {film: file for film, file in shown.items() if file} == dict(
        zip(plan.captioned, plan.captions_files, strict=True)
    )
    sentence = f"2 of 8 stimuli have no captions in {tmp_path}/captions: {films[0]} (did you mean '{films[0]}x'?), {films[2]};"
    assert sentence in plan.text_notice
    with caplog.at_level(logging.WARNING):
        assert validate(parse_config(brought)) == []
    assert sentence in caplog.text
    output = snakemake(brought, "-n")
    assert output.count(sentence) == 1
    jobs = _jobs(output)
    assert jobs["caption"] == 6
    assert jobs["stimulus_quality"] == 8
    pair = output.split("rule pair:")[1].split("output:")[0]
    assert [f"/captions/{film}.h5" in pair for film in films] == [film in plan.captioned for film in films]


def test_weights_in_folders_are_checked(demo, blip2_folder, sentence_folder, tmp_path):
    def problems(blip2, sentences):
        text = {"source": "blip2", "weights": str(blip2), "embedding": {"weights": str(sentences)}}
        return validate(parse_config(demo | {"text": text}))

    assert problems(blip2_folder, sentence_folder) == []
    for folder in (blip2_folder, sentence_folder):
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("tokenizer*", "prep*"))
    assert [
        p.split(";")[0] for p in problems(tmp_path / blip2_folder.name, tmp_path / sentence_folder.name)
    ] == [
        f"text.weights {tmp_path / blip2_folder.name} holds no preprocessor_config.json",
        f"text.weights {tmp_path / blip2_folder.name} holds no tokenizer.json",
        f"text.embedding.weights {tmp_path / sentence_folder.name} holds no tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"source": "tsv"}, "set text.captions_dir"),
        ({"source": "blip2", "window_s": 0.1}, "text.window_s 0.1 is shorter than one frame at video.fps 8"),
        ({"source": "blip"}, "'text.source' is 'blip'"),
        ({"souce": "tsv"}, "unknown key 'text.souce'; did you mean 'source'"),
        ({"embedding": {"pooling": "max"}}, "'text.embedding.pooling' is 'max'"),
    ],
)
def test_a_wrong_section_is_one_sentence(demo, text, words):
    with pytest.raises(Problems, match=words):
        parse_config(demo | {"text": text})


@pytest.mark.slow
@pytest.mark.parametrize("source", ["blip2", "tsv"])
def test_the_rule_makes_the_file(
    snakemake, tmp_path, brought, film_file, blip2_folder, sentence_folder, source
):
    """Snakemake itself, from a film to the file, with both weights steps; and a second call has nothing to do."""
    folder = tmp_path / "out"
    stimulus = make_plan(brought).stimuli[0]
    film = tmp_path / f"demo/bids/stimuli/{stimulus}.mp4"
    film.parent.mkdir(parents=True)
    shutil.copy(film_file, film)
    text = brought["text"] | {
        "source": source,
        "weights": str(blip2_folder),
        "max_tokens": 4,
        "beams": 1,
        "embedding": {"weights": str(sentence_folder)},
    }
    # The film is here; that the simulator would make another is not looked at.
    rules = ["--allowed-rules", "describe", "caption", "normalise", "weights"]
    wanted = [*rules, "--", f"{folder}/captions/{stimulus}.h5"]
    snakemake(brought | {"text": text}, *wanted)
    from neuroalign.text.captions import read_captions

    found = read_captions(folder / f"captions/{stimulus}.h5")
    assert len(found.captions) == 10
    files = {p.name for p in (folder / "captions").rglob("*.*")}
    described = {f"{stimulus}.tsv", f"{stimulus}.json"} if source == "blip2" else set()
    assert files == {f"{stimulus}.h5"} | described
    assert "of 10 windows have a caption" in (folder / f"logs/caption/{stimulus}.log").read_text()
    assert "Nothing to be done" in snakemake(brought | {"text": text}, *wanted)
