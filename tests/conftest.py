"""Fixtures shared by all tests, the threads they have, and the order in which files are run."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

# There is a test process for every core. Libraries read this when they are imported, so it stands before them all.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
# The files that take longest, longest first: a process that begins with one last would leave the others idle.
LONGEST = (
    "end_to_end/test_workflow.py",
    "workflow/test_weights.py",
    "training/test_stages.py",
    "fmri/test_real_head.py",
    "fmri/test_equals_nilearn.py",
    "text/test_whole_workflow.py",
    "workflow/test_fmriprep.py",
    "training/test_text.py",
    "report/test_report.py",
    "text/test_workflow.py",
    "workflow/test_dag.py",
    "fmri/test_native.py",
    "workflow/test_sharing.py",
    "simulate/test_dataset.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file the order stays."""
    place = {
        Path(__file__).with_name(file.split("/")[0]) / file.split("/")[1]: k for k, file in enumerate(LONGEST)
    }
    items.sort(key=lambda item: place.get(item.path, len(LONGEST)))


def pytest_collection_finish() -> None:
    """Leave what is there for good out of garbage collections: nilearn asks for one with every image it reads."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data sets; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real test data are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function ``(name, make)``: a folder that `make` fills in one test process, for all of them to read."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = base / f"once-{name}", base / f"once-{name}.made"
        # As pytest-xdist's documentation says: the first process makes it, the others wait.
        with FileLock(f"{made}.lock"):
            if not made.exists():
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def command() -> Iterator:
    """Run ``python -m MODULE ARGUMENTS`` in a folder, as a process that starts quicker (tests/preloaded.py)."""
    spec = importlib.util.spec_from_file_location("preloaded", Path(__file__).with_name("preloaded.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.Preloaded()
    yield run
    run.close()
