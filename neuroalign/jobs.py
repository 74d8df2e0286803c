"""What every workflow job shares: its log, its threads, and how it fails.

The scripts in ``workflow/scripts`` are thin adapters; each runs inside `job`.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuroalign.errors import UserError

_THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@contextmanager
def job(snakemake: Any, *, internet: bool = False) -> Iterator[logging.Logger]:
    """Run the body of a workflow script.

    Log records and warnings go to the rule's log file; numeric libraries get the job's threads; a `UserError`
    ends the job with its sentence on the console and in the log, and no traceback.

    Parameters
    ----------
    snakemake : object
        What Snakemake gives to a script: `log`, `threads`, `rule`.
    internet : bool
        Whether the job may reach the hub of weights. Only the step that fetches them does.

    Notes
    -----
    Import numpy, torch, ants or transformers only inside the block: they read the environment when first imported.
    """
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(snakemake.threads)
    if not internet:
        os.environ["HF_HUB_OFFLINE"] = "1"
    log_file = Path(snakemake.log[0])
    log_file.parent.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=log_file, filemode="w", level=logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    logger = logging.getLogger("neuroalign")
    try:
        yield logger
    except UserError as error:
        logger.error("%s", error)
        print(f"\nneuroalign {snakemake.rule}: {error}\n", file=sys.stderr, flush=True)
        sys.exit(1)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(
            f"\nneuroalign {snakemake.rule}: unexpected {type(error).__name__}: {reason[0]} "
            f"(a defect of NeuroAlign or a broken environment; details in {log_file})\n",
            file=sys.stderr,
            flush=True,
        )
        logger.exception("unexpected error")
        raise
