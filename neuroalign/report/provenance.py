"""The exact configuration and versions: what somebody else needs to make the same report."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from neuroalign import __version__
from neuroalign.io import open_hdf5, read_attributes
from neuroalign.report.results import Results
from neuroalign.report.style import Code, Section, plural, table

_PACKAGES = (
    *("torch", "numpy", "scipy", "pandas", "h5py", "nibabel", "nilearn", "antspyx", "pybids", "pydantic"),
    *("himalaya", "pymoten", "decord", "eva-decord", "ffmpeg-python", "imageio-ffmpeg", "av", "transformers"),
    *("safetensors", "snakemake", "matplotlib", "Jinja2"),
)


def section(results: Results) -> Section:
    """The configuration as YAML with every default filled in, and a table of versions."""
    out = Section("provenance", "Configuration and versions")
    lines = [
        ["neuroalign", __version__],
        ["Python", platform.python_version()],
        ["platform", platform.platform()],
    ]
    commit = git_commit(Path(__file__).resolve().parents[2])
    if commit:
        lines.append(["git commit", commit])
    else:
        out.absent.append("The package does not run from a git checkout, so no commit is named.")
    lines += [["video features", text] for text in features(results)]
    lines += [[name, version] for name, version in versions().items()]
    seeds = results.setting("train.seeds", [0])
    out.reading.append(
        f"Made by neuroalign {__version__}{f' at commit {commit[:12]}' if commit else ''} from "
        f"{plural(len(seeds), 'seed')} ({', '.join(map(str, seeds))}). The configuration below holds every default."
    )
    out.blocks.append(Code("The exact configuration", _yaml(results.config)))
    out.blocks.append(table("Versions", ["what", "version"], lines, text=2))
    return out


def features(results: Results) -> list[str]:
    """Backbone of the video features with what fixes its numbers: weights and their commit, or a library's version.

    One line, unless stimuli were embedded with different weights; none where there are no features of our own.
    """
    backbone = results.setting("video.backbone", "")
    folder = results.root / "embeddings" / backbone
    found = set()
    for path in sorted(folder.glob("*.h5")) if backbone else ():
        with open_hdf5(path) as file:
            found.add(str(read_attributes(file, ["revision"]).get("revision", "")))
    return [f"{backbone}: {revision}" if revision else backbone for revision in sorted(found)]


def versions() -> dict[str, str]:
    """Installed version of every package that takes part in the results."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout at `folder` (marked if files differ from it), or None outside of one."""
    git = shutil.which("git")
    if not git or not (folder / ".git").exists():
        return None
    try:
        head = _git(git, folder, "rev-parse", "HEAD")
        changed = _git(git, folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head} (with local changes)" if changed else head


def _git(git: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [git, "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.strip()


def _yaml(config: Any) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
