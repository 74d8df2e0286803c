"""Reading and writing files safely: atomic writes, TSV and JSON, checksums, provenance.

Formats of particular stages live with their stage (`fmri.series`, `video.shards`, `pairs.store`,
`evaluation.scores`); this module holds what they share.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from neuroalign import __version__
from neuroalign.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_WHOLE_FILE_LIMIT = 64 * 2**20
_SAMPLE = 4 * 2**20
# What git-annex and Git LFS leave in place of content that is not here: a few lines.
_POINTERS = (b"/annex/objects/", b"version https://git-lfs")
_POINTER_BYTES = 32768


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it to `path` if the block succeeds.

    A killed or failing writer leaves no file that looks whole. The temporary name keeps the suffix of
    `path`, because nibabel, ffmpeg and HDF5 tools choose the format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file open for writing that appears under `path` only when complete."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        yield file


def not_here(path: str | os.PathLike) -> str:
    """Why the content of a file is not here though its name is, and the way to get it; empty if it is here.

    git-annex (DataLad) and Git LFS leave a dangling link or a pointer of a few lines in place of content.
    """
    path = Path(path)
    fetch = f"fetch it (in a DataLad dataset: `datalad get {path}`)"
    try:
        size = path.stat().st_size
    except OSError:
        return f"{path} is a link to content that is not here; {fetch}" if path.is_symlink() else ""
    if path.is_file() and 0 < size < _POINTER_BYTES:
        with path.open("rb") as file:
            if file.read(64).startswith(_POINTERS):
                return f"{path} is a pointer to content that is not here; {fetch}"
    return ""


def require(path: str | os.PathLike) -> None:
    """Check that a file and its content are here.

    Raises
    ------
    UserError
        If not, with the way to get it.
    """
    if problem := not_here(path):
        raise UserError(f"{problem}.")
    if not Path(path).exists():
        raise UserError(f"{path} does not exist.")


@contextmanager
def open_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """An HDF5 file open for reading; a missing or damaged file is one clear sentence."""
    require(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{path} is not a readable HDF5 file ({error}); make it again.") from error
    with file:
        yield file


def write_tsv(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table as BIDS-style TSV: header, tabs, ``n/a`` for missing values."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, na_rep="n/a", lineterminator="\n")


def read_tsv(path: str | os.PathLike, text: tuple[str, ...] = ()) -> pd.DataFrame:
    """Read a BIDS-style TSV (``n/a`` is missing).

    Parameters
    ----------
    path : path
    text : tuple of str
        Columns kept as text (labels such as ``01`` must not become numbers); missing is ``""``.
    """
    # Half of the start-up time of jobs that read no table.
    import pandas as pd

    require(path)
    try:
        table = pd.read_csv(
            path, sep="\t", na_values=["n/a"], keep_default_na=True, dtype=dict.fromkeys(text, str)
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable TSV table ({error}).") from error
    for column in text:
        if column in table:
            table[column] = table[column].fillna("")
    return table


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON, readable by people and stable under reordering (keys sorted)."""
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, sort_keys=True, default=_plain) + "\n", encoding="utf-8"
        )


def read_json(path: str | os.PathLike) -> Any:
    """Read JSON; a missing or malformed file is one clear sentence."""
    require(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def checksum(path: str | os.PathLike) -> str:
    """A short content hash; files over 64 MB are sampled at both ends, their size included."""
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=12)
    with path.open("rb") as file:
        if size <= _WHOLE_FILE_LIMIT:
            digest.update(file.read())
        else:
            digest.update(file.read(_SAMPLE))
            file.seek(-_SAMPLE, os.SEEK_END)
            digest.update(file.read())
    return digest.hexdigest()


def provenance(config: Any = None, inputs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What made an output: package version, the config section used, checksums of the inputs.

    Parameters
    ----------
    config : JSON-like, optional
        The part of the configuration that was read.
    inputs : mapping of name to path, optional

    Notes
    -----
    No clock time is recorded: equal inputs give equal bytes.
    """
    return {
        "generated_by": {"name": "neuroalign", "version": __version__},
        "config": config,
        "inputs": {
            name: {"file": Path(path).name, "checksum": checksum(path)}
            for name, path in sorted((inputs or {}).items())
        },
    }


def stamp(file: h5py.File, made_by: Mapping[str, Any]) -> None:
    """Write a provenance record (see `provenance`) into an HDF5 file."""
    file.attrs["provenance"] = json.dumps(made_by, sort_keys=True, default=_plain)


def read_attributes(file: h5py.File, names: Iterable[str]) -> dict[str, Any]:
    """The attributes that a file has of those named, as plain Python values."""
    values = {name: file.attrs[name] for name in names if name in file.attrs}
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}


def read_strings(dataset: h5py.Dataset) -> list[str]:
    """The text of an HDF5 string dataset, whichever way its writer encoded it."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in dataset[()]]


def inside(root: str | os.PathLike, relative: str) -> Path:
    """`root/relative`, refused if it leaves `root` (absolute paths, ``..`` and the like)."""
    root = Path(root)
    target = root / relative
    if (
        not Path(os.path.normpath(target)).is_relative_to(os.path.normpath(root))
        or Path(relative).is_absolute()
    ):
        raise UserError(f"'{relative}' points outside {root}; only files inside it are read.")
    return target
