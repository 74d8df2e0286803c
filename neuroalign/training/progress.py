"""What can be watched while a stage trains: lines in the log, and event files for TensorBoard."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

EVENTS_FOLDER = "tensorboard"
# A line in the middle of an epoch where epochs are long.
_LINE_SECONDS = 60.0


class Progress:
    """Tells how far training is.

    Event files lie in ``tensorboard`` in the folder of the stage, if the package `tensorboard` is installed: a run from the start
    replaces those of the run before, one that is taken up goes on with them.

    Parameters
    ----------
    folder : Path
        Of the stage.
    epochs, steps : int
        Most epochs, and steps per epoch.
    begun : int
        Epochs already behind; 0 is a run from the start.
    quiet : bool
        Tell nothing: another process does.
    """

    def __init__(self, folder: Path, epochs: int, steps: int, begun: int, quiet: bool = False):
        self.epochs, self.steps, self.begun, self.quiet = epochs, steps, begun, quiet
        self.started = self.line = time.monotonic()
        self.events = None if quiet else _event_writer(folder / EVENTS_FOLDER, begun)

    def due(self) -> bool:
        """Whether it is time for a line in the middle of an epoch."""
        return not self.quiet and time.monotonic() - self.line > _LINE_SECONDS

    def step(self, epoch: int, done: int, loss: float) -> None:
        """A line in the middle of an epoch."""
        self.line = time.monotonic()
        behind = epoch - 1 - self.begun + done / self.steps
        log.info("epoch %d, step %d of %d: loss %.4f; %s", epoch, done, self.steps, loss, self._left(behind))

    def epoch(
        self,
        epoch: int,
        rows: Iterable[tuple[str, str, float]],
        loss: float | None,
        score: float,
        best: tuple[int, float],
    ) -> None:
        """An epoch is over: (split, term, value) of its events, its loss and validation score, and the best so far."""
        if self.quiet:
            return
        self.line = time.monotonic()
        left = f"; {self._left(epoch - self.begun)}" if epoch > self.begun else ""
        trained = "" if loss is None else f"loss {loss:.4f}, "
        log.info(
            "epoch %d of %d: %svalidation %.4f (best %.4f after epoch %d)%s",
            *(epoch, self.epochs, trained, score, best[1], best[0], left),
        )
        if self.events is not None:
            for split, term, value in rows:
                self.events.add_scalar(f"{split}/{term}", value, epoch)
            # Whoever watches, or kills, finds the epoch written.
            self.events.flush()

    def close(self) -> None:
        """Nothing more will come."""
        if self.events is not None:
            self.events.close()

    def _left(self, behind: float) -> str:
        per_epoch = (time.monotonic() - self.started) / max(behind, 1e-9)
        left = per_epoch * (self.epochs - self.begun - behind)
        return f"{_span(per_epoch)} per epoch, at most {_span(left)} left"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _event_writer(folder: Path, begun: int):
    """A TensorBoard writer, or None without the package."""
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Epochs that were written after the checkpoint and are trained again are not shown twice.
    return SummaryWriter(str(folder), purge_step=begun + 1 if begun else None)
