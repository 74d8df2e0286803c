"""The cached index: read at every parse of the workflow; what changed in the dataset is indexed again.

One file per configuration holds a record per subject. A subject is walked again when the name, size or times of a
file of its own change; its runs are put together again, from the files already found, when a file at the root of
the dataset changes or when other subjects change what all share. Nothing is ever written inside the dataset.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from neuroalign import __version__
from neuroalign.bids.index import Index, assemble, source_of
from neuroalign.bids.records import Record, refresh
from neuroalign.bids.sources import Source
from neuroalign.config import Config
from neuroalign.errors import UserError
from neuroalign.io import atomic_path

logger = logging.getLogger(__name__)

# Configurations kept, so that going back and forth between them indexes nothing again.
_KEPT = 8


def load_index(config: Config, folder: str | os.PathLike) -> Index:
    """The index of a dataset, from the cache as far as nothing has changed.

    Parameters
    ----------
    config : Config
    folder : path
        Where the cache lives, outside the dataset; made if absent.

    Returns
    -------
    Index
        Equal to that of `bids.index.build_index`.

    Raises
    ------
    UserError
        As `build_index`; and if `folder` lies inside the dataset.
    """
    folder = Path(folder)
    _refuse_inside(folder, Path(config.dataset.bids_dir))
    source = source_of(config)
    path = folder / f"index-{_digest(source)}.json"
    records, changed = refresh(source, _read(path))
    if changed:
        _write(path, records)
        logger.info("indexed %d subjects", len(records))
    return assemble(source, records)


def _refuse_inside(folder: Path, dataset: Path) -> None:
    if folder.resolve().is_relative_to(dataset.resolve()) and dataset.is_dir():
        raise UserError(
            f"The index would be written to {folder}, inside the BIDS dataset {dataset}, which is only ever read; "
            "set output_dir to a folder elsewhere."
        )


# --- files ----------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Record]:
    """The records of a cache file; none where it is absent or damaged, which is no news for the user."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
        if checksum != _checksum(content):
            return {}
        return {subject: Record(**values) for subject, values in json.loads(content).items()}
    except (OSError, TypeError, ValueError, AttributeError):
        return {}


def _write(path: Path, records: dict[str, Record]) -> None:
    # Two processes may do this at once: each writes a whole file, and either is right.
    content = json.dumps({subject: record.plain() for subject, record in records.items()}).encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(_checksum(content) + b"\n" + content)
    for old in sorted(path.parent.glob("index-*.json"), key=_age)[_KEPT:]:
        old.unlink(missing_ok=True)


def _age(path: Path) -> float:
    """A sort key, newest first; another process may have removed the file meanwhile."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=12).hexdigest().encode()


# --- what every record depends on -----------------------------------------------------------------------------


def _digest(source: Source) -> str:
    return hashlib.blake2b(json.dumps(_key(source), sort_keys=True).encode(), digest_size=12).hexdigest()


def _key(source: Source) -> dict[str, Any]:
    """All that a record is made from, but for files of the dataset; filters choose among records, later."""
    fmri = source.config.fmri
    return {
        "version": __version__,
        "code": _code(),
        "roots": [str(root) for root in (source.raw_root, source.root)],
        "absolute": [os.path.abspath(root) for root in (source.raw_root, source.root)],
        "source": fmri.source,
        "space": fmri.space,
        "resolution": fmri.resolution,
        "atlas": fmri.atlas.name,
        "queries": {name: query.text() for name, query in source.queries.items()},
    }


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of the modules that make the index: a changed rule is a changed index."""
    digest = hashlib.blake2b(digest_size=12)
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    return digest.hexdigest()
