"""Child processes that cannot hang their parent: what they say is waited for only so long, and none outlives its use.

Nothing here knows about videos.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from typing import IO

# A child can complain without end: the first complaints say what is wrong, the last why it gave up.
_FIRST, _LAST = 200, 20
_LONGEST_LINE = 1 << 20
# A killed process may be stuck in the kernel (a file server that is gone); it is then left to the system.
_PATIENCE_S, _LAST_WORDS_S = 10.0, 2.0


class Child:
    """A child process whose output is read line by line, with a time limit for each.

    Parameters
    ----------
    command : sequence of str
    folder : path, optional
        Its working directory.
    asked : bool
        Whether it reads questions from its standard input (see `ask`).
    """

    def __init__(self, command: Sequence[str], folder: str | os.PathLike | None = None, asked: bool = False):
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=folder,
        )
        self._stopped = False
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=_LAST)
        threading.Thread(target=self._forward, args=(self._process.stdout,), daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def ask(self, text: str) -> None:
        """Write a line to the child; what it cannot take any more is noticed when its answer is waited for."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{text}\n")
            self._process.stdin.flush()

    def line(self, timeout_s: float) -> str | None:
        """The next line of its output, or None once that has ended.

        Raises
        ------
        TimeoutError
            If nothing came.
        """
        try:
            return self._lines.get(timeout=max(0.0, timeout_s))
        except queue.Empty as error:
            raise TimeoutError from error

    def wait(self, timeout_s: float) -> int | None:
        """Its exit status; None if it is still there after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int | None:
        """End it if it still runs; its exit status (negative: the signal), None if even killing did not end it."""
        if self._process.poll() is None:
            self._process.kill()
        code = self.wait(_PATIENCE_S)
        if not self._stopped:
            # What it left behind (a process of its own) may keep the pipe open.
            self._listener.join(_LAST_WORDS_S)
        self._stopped = True
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        return code

    @property
    def messages(self) -> tuple[str, ...]:
        """The first and the last lines of its error stream, without empty ones; whole once it was stopped."""
        return (*self._first, *self._last)

    def _forward(self, stream: IO[str]) -> None:
        # A queue can be waited for with a time limit, a pipe cannot everywhere.
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                self._lines.put(line)
        self._lines.put(None)

    def _listen(self, stream: IO[str]) -> None:
        with stream:
            while line := stream.readline(_LONGEST_LINE):
                if line.strip():
                    (self._first if len(self._first) < _FIRST else self._last).append(line.rstrip())
