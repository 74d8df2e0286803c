"""The synthetic paired dataset of the model tests, and small, fast configurations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from neuroalign.config.train import Train
from neuroalign.io import write_json, write_tsv
from neuroalign.pairs.store import PairedDataset, write_brain, write_video

_SOURCE = Path(__file__).resolve().parents[1] / "models" / "conftest.py"


@pytest.fixture(scope="session")
def make_pairs():
    """The generator of synthetic paired datasets."""
    spec = importlib.util.spec_from_file_location("synthetic_pairs", _SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_pairs


@pytest.fixture(scope="session")
def tiny():
    """Build a configuration small enough for a test: overrides by section."""

    def build(ntcl: dict | None = None, vq: dict | None = None) -> Train:
        encoder = {"dim": 16, "depth": 1, "heads": 2, "subject_rank": 2}
        stage = {"epochs": 7, "batch_size": 32, "encoder": encoder, **(ntcl or {})}
        second = {"epochs": 5, "batch_size": 32, "codes": 16, "code_dim": 8, **(vq or {})}
        return Train(device="cpu", ntcl=stage, vq=second)

    return build


GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}


@pytest.fixture(scope="session")
def on_disk():
    """Write a paired dataset into a folder, as the pair stage does."""

    def write(pairs: PairedDataset, folder: Path) -> Path:
        write_tsv(folder / "clips.tsv", pairs.clips)
        write_video(folder / "video.h5", pairs.video)
        for subject, windows in pairs.brain.items():
            write_brain(folder / f"sub-{subject}.h5", windows)
        write_json(folder / "summary.json", {"geometry": GEOMETRY})
        return folder

    return write


@pytest.fixture(autouse=True)
def _one_thread():
    """Results must not depend on how many threads a machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
