"""One of several processes that train together, started by torchrun with the folder of its job (`training.launch`)."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from neuroalign.config.train import Train
from neuroalign.errors import UserError

_LOOK_S = 1.0


def main(folder: Path) -> int:
    """Run the job of a folder; a `UserError` leaves its sentence there."""
    job = json.loads((folder / "job.json").read_text())
    threading.Thread(target=_end_with, args=(job["parent"],), daemon=True).start()
    rank = int(os.environ["RANK"])
    logging.basicConfig(
        filename=job["log"],
        level=logging.INFO if rank == 0 else logging.WARNING,
        format=f"%(levelname)s %(name)s{'' if rank == 0 else f' [process {rank}]'}: %(message)s",
    )
    logging.captureWarnings(True)
    from neuroalign.training.launch import stage_function, stage_pairs
    from neuroalign.training.processes import joined

    try:
        with joined() as processes:
            stage_function(job["stage"])(
                stage_pairs(job["pairs"], job["fold"], job["change"], job["options"].get("seed", 0)),
                config=Train(**job["config"]),
                memory_mb=job["memory_mb"],
                processes=processes,
                **job["options"],
            )
    except UserError as error:
        partial = folder / f"error-{rank}.txt"
        partial.write_text(str(error))
        partial.replace(folder / "error.txt")
        return 1
    return 0


def _end_with(parent: int) -> None:
    """End when the job that asked for this process is gone: killed, it cannot tell."""
    while True:
        time.sleep(_LOOK_S)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)
        except PermissionError:
            pass


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
