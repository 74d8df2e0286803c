"""What is in a video file: the stream that would be shown, its size, orientation, colours, rate and clock.

The first frames are decoded, so a file that passes has pictures. Only the file itself is read: play lists and other
formats that name further files are refused. The reading happens in a process of its own (`inspection`), which is ended
when it makes no progress.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from neuroalign.errors import UserError
from neuroalign.video import inspection
from neuroalign.video.files import check_file
from neuroalign.video.watchdog import Child

STALL_S = 120.0


@dataclass(frozen=True)
class VideoInfo:
    """What is in a video file.

    Attributes
    ----------
    container, codec, pixel_format : str
        As ffmpeg calls them.
    index : int
        The video stream that is used: the largest picture, of equals the first. Covers, thumbnails and other still
        pictures do not count. Where a stream other than the first is marked as the default and the first is not,
        somebody chose, and only marked ones count; a mark on the first says nothing, because programs put it there
        unasked.
    streams : tuple of str
        Kind of every stream, in order.
    width, height : int
        Coded size in pixels, before rotation.
    sample_aspect : float
        Width of a pixel over its height.
    rotation : float
        Degrees counter-clockwise by which a player turns the picture.
    mirrored : bool
        Whether it is flipped left to right before that.
    interlaced : bool
        Whether one of the first frames is marked as made of two fields.
    transparent : bool
        Whether pixels may be transparent.
    fps : float
        Average frame rate (nominal for files of variable rate).
    tick_s : float
        Seconds between two time stamps that the container can tell apart.
    start_s : float
        Time stamp of the container's beginning, which is t = 0 of a player.
    start_is_announced : bool
        False if the container does not tell, so that it is the time stamp of the first picture.
    lead_s : float
        Seconds from there to the first picture.
    end_s : float or None
        Seconds from there to the end of the last picture, as the file claims.
    end_is_exact : bool
        False if that claim is the container's, which the sound may outlast the picture in.
    colour_space, transfer, primaries : str
        Matrix, transfer function and primaries; ``unspecified`` where the file does not say.
    frames : int
        As the file claims; 0 where it does not say.
    """

    container: str
    codec: str
    pixel_format: str
    index: int
    streams: tuple[str, ...]
    width: int
    height: int
    sample_aspect: float
    rotation: float
    mirrored: bool
    interlaced: bool
    transparent: bool
    fps: float
    tick_s: float
    start_s: float
    start_is_announced: bool
    lead_s: float
    end_s: float | None
    end_is_exact: bool
    colour_space: str
    transfer: str
    primaries: str
    frames: int

    @property
    def lies_on_its_side(self) -> bool:
        """Whether a player exchanges width and height."""
        return self.rotation % 180 == 90

    @property
    def aspect(self) -> float:
        """Width over height of the picture as a player shows it, upright and with square pixels."""
        aspect = self.width * self.sample_aspect / self.height
        return 1 / aspect if self.lies_on_its_side else aspect

    def as_dict(self) -> dict[str, Any]:
        """For the record beside a normalised video."""
        return asdict(self) | {"streams": list(self.streams)}


def probe(path: str | os.PathLike, stall_s: float = STALL_S) -> VideoInfo:
    """Look into a video file.

    Parameters
    ----------
    path : path
    stall_s : float
        Seconds without progress after which the file is given up.

    Raises
    ------
    UserError
        If the file is missing, a dangling link, empty, not a video, without a video stream, without frames, or brings
        the decoder to a halt.
    """
    with Inspector(stall_s) as inspector:
        return inspector.probe(path)


class Stalled(UserError):
    """The inspecting process made no progress, or broke down, on a file."""


class Inspector:
    """Looks into video files, any number of them, by way of a child process that is watched.

    Parameters
    ----------
    stall_s : float
        Seconds without progress after which a file is given up; the next file gets a new process.
    """

    def __init__(self, stall_s: float = STALL_S):
        self._stall_s = stall_s
        self._child: Child | None = None

    def __enter__(self) -> Inspector:
        # Its process gets ready while the parent does other things.
        self._start()
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def probe(self, path: str | os.PathLike) -> VideoInfo:
        """As the function `probe`."""
        check_file(path)
        answer = self._answer(path, {"do": "look"})
        return VideoInfo(**answer | {"streams": tuple(answer["streams"])})

    def read_through(self, path: str | os.PathLike, **how: Any) -> dict[str, Any]:
        """Decode a film up to its first bad frame; see `reading.read_through`.

        Raises
        ------
        UserError
            If the file cannot be opened, or brings the decoder to a halt.
        """
        return self._answer(path, {"do": "read", **how})

    def longest_still(self, path: str | os.PathLike) -> int:
        """As `reading.longest_still`: frames of a mezzanine in which nothing changes."""
        return self._answer(path, {"do": "still"})["frames"]

    def _answer(self, path: str | os.PathLike, question: dict[str, Any]) -> dict[str, Any]:
        self._start()
        self._child.ask(json.dumps({**question, "path": os.path.abspath(path)}))
        moved, at = time.monotonic(), ""
        while True:
            try:
                line = self._child.line(moved + self._stall_s - time.monotonic())
            except TimeoutError as error:
                self._end()
                raise Stalled(
                    f"{path} cannot be read: looking into it made no progress for {self._stall_s:.0f} s; "
                    "copy the file again or convert it."
                ) from error
            if line is None:
                code = self._end()
                raise Stalled(
                    f"{path} cannot be read: it brings the decoder down (exit status {code}); "
                    "copy the file again or convert it."
                )
            kind, _, rest = line.strip().partition(" ")
            if kind == "answer":
                answer = json.loads(rest)
                if "refused" in answer:
                    raise UserError(f"{path} {answer['refused']}")
                return answer
            if line != at:
                moved, at = time.monotonic(), line

    def _start(self) -> None:
        if self._child is None:
            self._child = Child(inspection.command(), asked=True)

    def _end(self) -> int | None:
        child, self._child = self._child, None
        return child.stop() if child is not None else None
