"""Does a file end where its own boxes say it should? Tells a film that was cut off from one with a wrong header.

Only the outermost structure of MP4 and QuickTime, Matroska and WebM, AVI and MPEG transport streams is read; other
formats do not tell.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

# More boxes than any film has at its outermost level: fragmented films of a day stay below.
_MOST_BOXES = 1_000_000
_PACKETS = (188, 192, 204)
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067


def missing_bytes(path: str | os.PathLike) -> int | None:
    """How many bytes a file lacks at its end by its own account.

    Parameters
    ----------
    path : path

    Returns
    -------
    int or None
        0 for a file that is whole; None if its format does not say.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _boxes(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return _chunks(file, size)
        if head[:4] == _EBML.to_bytes(4, "big"):
            return _segment(file, size)
        for packet in _PACKETS:
            # A sync byte at the same place of every packet; the longer ones have four bytes before, or sixteen after.
            if size > 4 * packet and _synced(file, packet):
                return -size % packet
    return None


def _synced(file: BinaryIO, packet: int) -> bool:
    file.seek(0)
    head = file.read(4 * packet)
    return any(set(head[first::packet]) == {0x47} for first in (0, 4))


def _boxes(file: BinaryIO, size: int) -> int | None:
    """ISO base media: a 32-bit size and a type; size 1 is followed by 64 bits, size 0 reaches to the end, wherever that is."""
    at = 0
    for _ in range(_MOST_BOXES):
        if at >= size:
            break
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return 0  # A few stray bytes after the last box hurt nobody.
        length = struct.unpack(">I", head[:4])[0]
        if length == 1 and len(head) == 16:
            length = struct.unpack(">Q", head[8:])[0]
        if length == 0:
            return None
        if length < 8:
            return 0
        at += length
    return max(0, at - size)


def _chunks(file: BinaryIO, size: int) -> int:
    """RIFF: a type and a 32-bit size, padded to even; long AVIs are several of them."""
    at = end = 0
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name not in (b"RIFF", b"JUNK", b"idx1", b"LIST"):
            break
        end = at + 8 + length
        at = end + length % 2
    return max(0, end - size)


def _segment(file: BinaryIO, size: int) -> int | None:
    """EBML: the header, then one segment whose size may be unknown (all ones)."""
    for name in (_EBML, _SEGMENT):
        found, _ = _number(file, keep_marker=True)
        length, unknown = _number(file, keep_marker=False)
        if found != name or length is None or unknown:
            return None
        if name == _SEGMENT:
            return max(0, file.tell() + length - size)
        file.seek(length, os.SEEK_CUR)
    return None


def _number(file: BinaryIO, keep_marker: bool) -> tuple[int | None, bool]:
    """A variable-length EBML number and whether all its value bits are ones."""
    first = file.read(1)
    if not first or not first[0]:
        return None, False
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    if len(rest) < width - 1:
        return None, False
    raw, bits = int.from_bytes(first + rest, "big"), 7 * width
    value = raw & ((1 << bits) - 1)
    return (raw if keep_marker else value), value == (1 << bits) - 1
