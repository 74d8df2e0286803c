"""Which source files a stage depends on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from neuroalign.modules import source_files


def names(*modules: str) -> set[str]:
    return {path.rpartition("neuroalign/")[2] for path in source_files(*modules)}


def test_imports_are_followed_inside_functions_too():
    found = names("neuroalign.pairs.build")
    assert {"pairs/build.py", "pairs/windows.py", "pairs/betas.py", "pairs/store.py", "io.py"} <= found
    assert not {
        name for name in found if name.startswith(("models/", "training/", "video/normalise", "config/"))
    }


def test_a_star_takes_every_module_of_a_package():
    assert {"evaluation/baselines/ridge.py", "evaluation/baselines/cca.py"} <= names(
        "neuroalign.evaluation.baselines.*"
    )


def test_paths_are_relative_inside_the_working_directory(root, monkeypatch):
    monkeypatch.chdir(root)
    assert "neuroalign/io.py" in source_files("neuroalign.io")


@pytest.mark.parametrize(
    "module",
    [
        "neuroalign.pairs.build",
        "neuroalign.bids.index",
        "neuroalign.training.ntcl",
        "neuroalign.evaluation.evaluate",
    ],
)
def test_what_is_really_imported_is_tracked(module):
    """Python's own account of a module's imports is a subset of what the source says."""
    code = f"import sys, {module}; print('\\n'.join(m for m in sys.modules if m.startswith('neuroalign.')))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    tracked = {f"neuroalign/{name}" for name in names(module)}
    for name in loaded:
        if name.startswith(("neuroalign.config", "neuroalign.errors")):
            continue
        base = name.replace(".", "/")
        assert f"{base}.py" in tracked or f"{base}/__init__.py" in tracked or name.count(".") == 1, name


@pytest.mark.parametrize("package", ["bids", "fmri", "video"])
def test_stages_on_volumes_and_films_import_no_torch(package, root):
    heavy = [
        path
        for path in (root / "neuroalign" / package).rglob("*.py")
        if "import torch" in path.read_text() and "backbones" not in path.parts
    ]
    assert not heavy


def test_the_plan_imports_nothing_heavy():
    code = "import sys, neuroalign.plan, neuroalign.cli; print(' '.join(sys.modules))"
    loaded = set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )
    assert not loaded & {
        "torch",
        "nilearn",
        "ants",
        "bids",
        "decord",
        "matplotlib",
        "sklearn",
        "transformers",
    }
