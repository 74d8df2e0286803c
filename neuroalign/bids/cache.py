"""The cached index: read at every parse of the workflow, rebuilt whenever the dataset changes.

The key is everything the index depends on: the configuration it reads, the code that makes it, and the name,
size and times of every file it may look at. Nothing is ever written inside the dataset.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuroalign import __version__
from neuroalign.bids.index import Index, build_index, read_presentations, read_runs, write_index
from neuroalign.bids.sources import check_dataset
from neuroalign.config import Config
from neuroalign.errors import UserError
from neuroalign.io import checksum, read_json, write_json

logger = logging.getLogger(__name__)

# File times are this coarse on the coarsest common file systems' clocks; a file changed within such a tick may
# change again without its times telling.
_TICK_S = 0.02
# Indices kept, so that going back and forth between configurations rebuilds nothing.
_KEPT = 8

_RELEVANT = re.compile(
    r"_(bold|mask|timeseries|regressors|events|T1w)\.(nii|nii\.gz|json|tsv|tsv\.gz|h5)$|^(sub-[^_]+_)?atlas-.*\.h5$"
)
_MODALITIES = ("func", "anat")


def load_index(config: Config, folder: str | os.PathLike) -> Index:
    """The index of a dataset, from the cache if nothing has changed, else built anew.

    Parameters
    ----------
    config : Config
    folder : path
        Where the cache lives, outside the dataset; made if absent.

    Returns
    -------
    Index

    Raises
    ------
    UserError
        As `build_index`; and if `folder` lies inside the dataset.
    """
    folder = Path(folder)
    _refuse_inside(folder, Path(config.dataset.bids_dir))
    check_dataset(Path(config.dataset.bids_dir))
    digest, newest = _digest(config)
    cached = _read(folder, digest)
    if cached is not None:
        return cached
    wait = newest + _TICK_S - time.time()
    if 0 < wait <= _TICK_S:
        time.sleep(wait)
    index = build_index(config)
    _write(folder, digest, index)
    logger.info("indexed %d runs, %d presentations", len(index.runs), len(index.presentations))
    # What is returned has been through the files once, so that a first and a second call agree to the last bit.
    return _read(folder, digest) or index


def _refuse_inside(folder: Path, dataset: Path) -> None:
    if folder.resolve().is_relative_to(dataset.resolve()) and dataset.is_dir():
        raise UserError(
            f"The index would be written to {folder}, inside the BIDS dataset {dataset}, which is only ever read; "
            "set output_dir to a folder elsewhere."
        )


# --- files ----------------------------------------------------------------------------------------------------


def _read(folder: Path, digest: str) -> Index | None:
    record = folder / f"index-{digest}.json"
    if not record.exists():
        return None
    try:
        content = read_json(record)
        runs, shown = _tables(folder, digest)
        if content["checksums"] != [checksum(runs), checksum(shown)]:
            return None
        return Index(read_runs(runs), read_presentations(shown), [str(p) for p in content["problems"]])
    except (UserError, OSError, KeyError, TypeError, ValueError):
        # A damaged cache is no news for the user: it is made again.
        return None


def _write(folder: Path, digest: str, index: Index) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    runs, shown = _tables(folder, digest)
    write_index(index, runs, shown)
    # Last, because its presence says that the tables are there.
    checksums = [checksum(runs), checksum(shown)]
    write_json(folder / f"index-{digest}.json", {"problems": index.problems, "checksums": checksums})
    records = sorted(folder.glob("index-*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    for record in records[_KEPT:]:
        for path in (record, *_tables(folder, record.stem.removeprefix("index-"))):
            path.unlink(missing_ok=True)


def _tables(folder: Path, digest: str) -> tuple[Path, Path]:
    return folder / f"runs-{digest}.tsv", folder / f"presentations-{digest}.tsv"


# --- what the index depends on --------------------------------------------------------------------------------


def _digest(config: Config) -> tuple[str, float]:
    """A digest of everything the index depends on, and the time of the newest change among the files."""
    digest = hashlib.blake2b(json.dumps(_key(config), sort_keys=True).encode(), digest_size=12)
    newest = 0.0
    roots = [Path(config.dataset.bids_dir)]
    if config.fmri.source != "raw" and config.dataset.derivatives:
        roots.append(Path(config.dataset.derivatives))
    for root in roots:
        for relative, state, changed in _states(root):
            digest.update(f"{relative}\0{state}\n".encode())
            newest = max(newest, changed)
        digest.update(b"\0\0")
    return digest.hexdigest(), newest


def _key(config: Config) -> dict[str, Any]:
    dataset = config.dataset.model_dump(mode="json", exclude={"simulate"})
    return {
        "version": __version__,
        "code": _code(),
        "dataset": dataset,
        "roots": [os.path.abspath(dataset[k]) for k in ("bids_dir", "derivatives") if dataset[k]],
        "source": config.fmri.source,
        "space": config.fmri.space,
        "atlas": config.fmri.atlas.name,
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of the modules that make the index: a changed rule is a changed index."""
    digest = hashlib.blake2b(digest_size=12)
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()


def _states(root: Path) -> Iterator[tuple[str, str, float]]:
    """Name, state and time of change of every file that the index may look at, in a stable order.

    A link counts with the file it points to; a dangling link with itself.
    """
    pending: list[tuple[Path, str, int]] = [(root, "", 0)]
    while pending:
        folder, prefix, depth = pending.pop()
        try:
            with os.scandir(folder) as entries:
                listing = sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise UserError(f"{folder} may not be read by this user; change its permissions.") from error
        for entry in listing:
            if entry.name == "dataset_description.json" or _RELEVANT.search(entry.name):
                yield _state(entry, prefix + entry.name)
            elif _is_level(entry.name, depth) and entry.is_dir():
                below = 3 if entry.name in _MODALITIES else depth + 1
                yield prefix + entry.name, "folder", 0.0
                pending.append((Path(entry.path), f"{prefix}{entry.name}/", below))


def _is_level(name: str, depth: int) -> bool:
    """Whether a folder may hold runs: ``sub-*`` at the root, then ``ses-*``, then the modalities."""
    if depth == 0:
        return name.startswith("sub-")
    return (depth == 1 and name.startswith("ses-")) or (depth in (1, 2) and name in _MODALITIES)


def _state(entry: os.DirEntry, name: str) -> tuple[str, str, float]:
    try:
        status = entry.stat()
        kind = "file"
    except FileNotFoundError:
        status = entry.stat(follow_symlinks=False)
        kind = "dangling"
    changed = max(status.st_mtime, status.st_ctime)
    return name, f"{kind} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}", changed
