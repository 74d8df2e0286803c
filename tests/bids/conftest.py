"""Builders of BIDS trees made of empty and tiny files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import pytest

from neuroalign.bids.naming import parse_entities, run_folder
from neuroalign.config import Config, parse_config

EVENTS = "onset\tduration\tstim_file\ttrial_type\n0.0\t10.0\tfilm.mp4\tmovie\n12.0\t4.0\tn/a\tfixation\n"


class BidsTree:
    """A data set under construction; every method returns the tree, so that calls chain."""

    def __init__(self, root: Path, description: bool = True):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        if description:
            self.file("dataset_description.json", {"Name": "test", "BIDSVersion": "1.10.0"})

    def file(self, relative: str, content: str | dict | list = "") -> BidsTree:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return self

    def link(self, relative: str, target: str | Path) -> BidsTree:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)
        return self

    def run(
        self, name: str, events: str | None = EVENTS, image: str | None = ".nii.gz", meta: dict | None = None
    ) -> BidsTree:
        """Files of one raw run, `name` without suffix; also the T1w of its session unless there is one."""
        entities = parse_entities(name)
        folder = run_folder(entities["sub"], entities.get("ses", ""))
        if image:
            self.file(f"{folder}/{name}_bold{image}")
        self.file(f"{folder}/{name}_bold.json", {"RepetitionTime": 2.0} if meta is None else meta)
        if events is not None:
            self.file(f"{folder}/{name}_events.tsv", events)
        session = f"_ses-{entities['ses']}" if "ses" in entities else ""
        return self.file(f"{folder[:-4]}anat/sub-{entities['sub']}{session}_T1w.nii.gz")

    def preprocessed(
        self,
        name: str,
        space: str = "MNI152NLin2009cAsym",
        res: str = "",
        extra: str = "",
        meta: dict | None = None,
    ) -> BidsTree:
        """fMRIPrep outputs of one run; `extra` is put before `desc`."""
        entities = parse_entities(name)
        stem = f"{run_folder(entities['sub'], entities.get('ses', ''))}/{name}"
        spaced = f"{stem}_space-{space}" + (f"_res-{res}" if res else "") + extra
        self.file(f"{spaced}_desc-preproc_bold.nii.gz").file(f"{spaced}_desc-brain_mask.nii.gz")
        self.file(f"{spaced}_desc-preproc_bold.json", {"RepetitionTime": 2.0} if meta is None else meta)
        return self.file(f"{stem}_desc-confounds_timeseries.tsv", "trans_x\n0\n")

    def series(self, name: str, extension: str = ".tsv", meta: dict | None = None) -> BidsTree:
        """One time series, `name` without suffix."""
        entities = parse_entities(name)
        stem = f"{run_folder(entities['sub'], entities.get('ses', ''))}/{name}_timeseries"
        if extension == ".h5":
            (self.root / stem).parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(self.root / f"{stem}.h5", "w") as file:
                file["data"], file["labels"] = [[0.5], [0.7]], ["LH_Vis_1"]
        else:
            self.file(stem + extension, "LH_Vis_1\n0.5\n")
        return self.file(f"{stem}.json", {"RepetitionTime": 1.0} if meta is None else meta)

    def config(self, source: str = "raw", derivatives: Path | str | None = None, **filters) -> Config:
        fmri = {"source": source, "atlas": {"image": "atlas.nii.gz"}}
        fmri |= {k: filters.pop(k) for k in ("space", "resolution", "atlas") if k in filters}
        dataset = {"bids_dir": str(self.root), "presentations": filters.pop("presentations", [])}
        dataset["filters"] = {k: str(v) if k == "bids_filter_file" else v for k, v in filters.items()}
        if derivatives:
            dataset["derivatives"] = str(derivatives)
        return parse_config({"output_dir": str(self.root.parent / "out"), "dataset": dataset, "fmri": fmri})


@pytest.fixture
def bids(tmp_path: Path) -> BidsTree:
    """An empty raw dataset."""
    return BidsTree(tmp_path / "bids")


@pytest.fixture
def derived(bids: BidsTree) -> BidsTree:
    """An empty derivatives dataset, nested in the raw one."""
    return BidsTree(bids.root / "derivatives" / "pipeline")


@pytest.fixture(scope="session")
def new_tree() -> type[BidsTree]:
    """For tests that make data sets of their own."""
    return BidsTree
