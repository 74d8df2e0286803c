"""The side file of a long job: finished parts, written as they come, so that a killed job goes on where it was.

A file that is only appended to survives what an HDF5 file open for writing does not: whenever its writer is killed, all
but the last part in it are whole, and a checksum tells whether that one is.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

_MAGIC = b"neuroalign parts 1\n"
# Before each part: its length in bytes, and its checksum.
_HEAD = struct.Struct("<Q16s")


def side_file(destination: str | os.PathLike) -> Path:
    """Where the parts of an output wait: a hidden file beside it, which Snakemake does not know and so does not delete."""
    destination = Path(destination)
    return destination.with_name(f".{destination.name}.partial")


class Journal:
    """Parts of an output, in order.

    Use it as a context manager; leaving it keeps the file, `remove` deletes it.

    Parameters
    ----------
    destination : path
        The output that the parts will make up.
    identity : str
        Everything that decides what the parts hold, as a checksum. Parts of another identity are thrown away.

    Attributes
    ----------
    count : int
        Whole parts in the file.

    Notes
    -----
    The file is locked while it is open. Where another job holds it, or the file system knows no locks, parts go to a
    nameless temporary file: the job runs as well, but cannot be gone on with.
    """

    def __init__(self, destination: str | os.PathLike, identity: str):
        self._path: Path | None = side_file(destination)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._header = _MAGIC + identity.encode() + b"\n"
        self._file = self._locked()
        self._ends: list[int] = []
        self._load()

    @property
    def count(self) -> int:
        """Whole parts in the file."""
        return len(self._ends)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, part: bytes) -> None:
        """Add a part; once this returns, it outlives the process and the machine's next crash."""
        self._file.seek(self._end)
        self._file.write(_HEAD.pack(len(part), _digest(part)) + part)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._ends.append(self._file.tell())

    def __iter__(self) -> Iterator[bytes]:
        """The parts, one at a time."""
        begin = len(self._header)
        for end in self._ends:
            self._file.seek(begin + _HEAD.size)
            yield self._file.read(end - begin - _HEAD.size)
            begin = end

    def remove(self) -> None:
        """Delete the file: what it was kept for is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else len(self._header)

    def _locked(self) -> BinaryIO:
        """The side file, for this process alone."""
        while True:
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                why = "another job holds it" if isinstance(error, BlockingIOError) else str(error)
                logger.warning(
                    "%s cannot be locked (%s): this job cannot be gone on with, should it stop",
                    self._path,
                    why,
                )
                folder, self._path = self._path.parent, None
                return tempfile.TemporaryFile(dir=folder)
            # The job that held it may have finished and deleted it since it was opened.
            try:
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    return file
            except FileNotFoundError:
                pass
            file.close()

    def _load(self) -> None:
        """Find the whole parts, and cut off what follows them."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        if self._file.read(len(self._header)) != self._header:
            if size:
                logger.info("%s is damaged, or of another film or other settings: starting over", self._path)
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._header)
            self._file.flush()
            return
        while True:
            head = self._file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                break
            length, digest = _HEAD.unpack(head)
            # A damaged length must not ask for more memory than there are bytes.
            if length > size - self._file.tell() or _digest(self._file.read(length)) != digest:
                break
            self._ends.append(self._file.tell())
        self._file.truncate(self._end)


def _digest(part: bytes) -> bytes:
    return blake2b(part, digest_size=16).digest()
