"""docs/confounds.md says what is really regressed out, and when a volume is censored."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest

from neuroalign.config.fmri import Clean
from neuroalign.fmri.clean import STRATEGIES, load_run_confounds
from neuroalign.fmri.preprocess.confounds import confounds_table
from neuroalign.io import write_json, write_tsv


def expand(braces: str) -> list[str]:
    """What a shell makes of ``a{b,c}``."""
    parts = re.split(r"\{([^}]*)\}", braces)
    choices = [[part] if i % 2 == 0 else part.split(",") for i, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def rows(text: str, header: str) -> list[list[str]]:
    """Cells of the table whose header line begins with `header`."""
    lines = iter(text.splitlines())
    assert any(line.startswith(header) for line in lines), header
    next(lines)
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def columns_of(cell: str) -> set[str]:
    return {name for span in re.findall(r"`([^`]+)`", cell) for name in expand(span)}


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs/confounds.md").read_text(encoding="utf-8")


@pytest.fixture(params=["native", "fmriprep"])
def table(request, tmp_path):
    """A complete confounds table, by the native engine or by fMRIPrep 23.2, and its number of volumes."""
    if request.param == "native":
        rng = np.random.default_rng(0)
        motion = np.cumsum(rng.normal(size=(90, 6)) * [0.02, 0.02, 0.02, 2e-4, 2e-4, 2e-4], axis=0)
        brain = 1000 + 10 * rng.normal(size=(200, 90))
        content, sidecar = confounds_table(motion, brain, brain[:50], brain[50:90], tr=2.0, dummies=1)
        path = tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv"
        write_tsv(path, content)
        write_json(path.with_suffix(".json"), sidecar)
        return path, 90
    folder = request.getfixturevalue("shared_data") / "boldmoments/derivatives/fmriprep/sub-01/ses-02/func"
    path = folder / "sub-01_ses-02_task-test_run-1_desc-confounds_timeseries.tsv"
    return path, len(pd.read_csv(path, sep="\t"))


def test_columns_are_those_of_the_page(page, table):
    path, volumes = table
    strategies = rows(page, "| strategy | columns")
    assert [row[0].strip("`") for row in strategies] == list(STRATEGIES)
    motions = {row[0].strip("`"): row for row in rows(page, "| `motion` | columns")}
    assert set(motions) == set(Clean.model_fields["motion"].annotation.__args__)
    full = columns_of(motions["full"][1])
    for name, cell, number in strategies:
        for motion, (_, motion_cell, motion_number) in motions.items():
            wanted = columns_of(cell)
            if wanted:
                assert full <= wanted
                wanted = (wanted - full) | columns_of(motion_cell)
            config = Clean(strategy=name.strip("`"), motion=motion)
            found, _ = load_run_confounds("any_bold.nii", path, config, volumes)
            assert set([] if found is None else found.columns) == wanted
            assert len(columns_of(motion_cell)) == int(motion_number)
        assert len(columns_of(cell)) == int(number)


def test_thresholds_are_those_of_the_page(page, tmp_path):
    text = " ".join(" ".join(row) for row in rows(page, "| censored | when"))
    fd, scrub_fd = (float(v) for v in re.findall(r"([\d.]+) mm", text))
    dvars = float(re.search(r"std_dvars` > ([\d.]+)", text)[1])
    shortest = int(re.search(r"shorter than (\d+) volumes", text)[1])
    assert fd == Clean().fd_threshold_mm

    rng = np.random.default_rng(0)
    brain = 1000 + 10 * rng.normal(size=(200, 120))
    content, _ = confounds_table(np.zeros((120, 6)), brain, brain[:50], brain[50:90], tr=2.0, dummies=0)
    content["framewise_displacement"], content["std_dvars"] = 0.0, 1.0
    content.loc[[20, 21], "framewise_displacement"] = fd - 0.01, fd + 0.01
    content.loc[[60, 61], "std_dvars"] = dvars - 0.01, dvars + 0.01
    content.loc[61 + shortest, "std_dvars"] = 9.0  # the piece between is one volume too short
    content.loc[90, "std_dvars"] = 9.0
    content.loc[91 + shortest, "std_dvars"] = 9.0  # this one is just long enough
    path = tmp_path / "sub-1_task-a_desc-confounds_timeseries.tsv"
    write_tsv(path, content)

    def censored(**settings):
        _, keep = load_run_confounds("bold.nii.gz", path, Clean(**settings), 120)
        return np.flatnonzero(~keep).tolist()

    for strategy in ("none", "motion", "simple"):
        assert censored(strategy=strategy) == [21]
        assert censored(strategy=strategy, fd_threshold_mm=None) == []
    scrubbed = [21, *range(61, 61 + shortest + 1), 90, 91 + shortest]
    assert censored(strategy="scrubbing") == scrubbed
    assert scrub_fd == fd
    assert censored(strategy="scrubbing", fd_threshold_mm=None) == scrubbed
