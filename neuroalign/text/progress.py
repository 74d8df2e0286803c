"""Captions on disk while a film is being described, so that a killed job goes on where it was."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


class Progress:
    """A side file of whole batches of captions: JSON, one line per batch, after a line that says what they are of.

    Parameters
    ----------
    path : path
        Lies beside the result; made if need be.
    fingerprint : mapping
        JSON-like; everything that decides the captions. Batches under another fingerprint are discarded.

    Attributes
    ----------
    done : list of str
        Captions of the windows from the first on.
    """

    def __init__(self, path: str | os.PathLike, fingerprint: Mapping[str, Any]):
        self.path = Path(path)
        self.done: list[str] = []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        header = json.dumps(fingerprint, sort_keys=True)
        keep = self._read(header)
        # What follows the last whole line is of a batch that was being written when the job was killed.
        self._file.truncate(keep)
        if keep == 0:
            self._append(header)
        elif self.done:
            logger.info("going on after %d captions of an earlier run", len(self.done))

    def _read(self, header: str) -> int:
        """Take in what is there; the number of bytes that can be used."""
        self._file.seek(0)
        first = self._file.readline()
        if first != header.encode() + b"\n":
            return 0
        keep = len(first)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            self.done += json.loads(line)
            keep += len(line)
        return keep

    def add(self, captions: Sequence[str]) -> None:
        """Keep the captions of the next batch; they are on disk when this returns."""
        self._append(json.dumps(list(captions)))
        self.done += captions

    def _append(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *reason: object) -> None:
        """Stop writing; what is there stays for a later run."""
        self._file.close()

    def remove(self) -> None:
        """Remove the side file, once the result is written."""
        self.path.unlink()
