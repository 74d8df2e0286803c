"""Starting a training stage: in this process, or in several through torchrun.

A stage is named ``module:function``, so that what starts it depends on no stage.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from neuroalign.config.train import Train
from neuroalign.errors import UserError
from neuroalign.pairs.store import PairedDataset
from neuroalign.pairs.stored import open_pairs

log = logging.getLogger(__name__)


def run_stage(
    stage: str,
    pairs: Path,
    fold: int,
    config: Train,
    *,
    change: str | None = None,
    threads: int = 1,
    log_file: Path | None = None,
    **options: Any,
) -> None:
    """Run a stage on the pairs of a folder, in ``config.processes`` processes.

    Parameters
    ----------
    stage : str
        ``module:function``; the function takes pairs, then `config`, `options`, `memory_mb` and `processes` by name.
    pairs : Path
    fold : int
    config : Train
    change : str, optional
        What is taken from the pairs (`pairs.variants`), for a variant of the model.
    threads : int
        Of all processes together.
    log_file : Path, optional
        Where several processes write their records.
    **options
        JSON-like.

    Raises
    ------
    UserError
        If more processes are asked for than there are GPUs, or a process raises one.
    RuntimeError
        If a process fails otherwise.
    """
    # Half for the windows; the rest for the network, what a single person's raw windows take, and libraries.
    memory_mb = config.memory_mb / 2 / config.processes
    if config.processes == 1:
        given = stage_pairs(pairs, fold, change, options.get("seed", 0))
        stage_function(stage)(given, config=config, memory_mb=memory_mb, **options)
        return
    _check_gpus(config)
    with tempfile.TemporaryDirectory(prefix="neuroalign-") as folder:
        job = {
            "stage": stage,
            "pairs": str(pairs),
            "fold": fold,
            "change": change,
            "config": config.model_dump(mode="json"),
            "memory_mb": memory_mb,
            "options": options,
            "log": None if log_file is None else str(log_file),
            "parent": os.getpid(),
        }
        (Path(folder) / "job.json").write_text(json.dumps(job, default=str))
        _run(Path(folder), config.processes, max(1, threads // config.processes), log_file)


def stage_pairs(folder: str | os.PathLike, fold: int, change: str | None, seed: int) -> PairedDataset:
    """The pairs of a folder, or those of a variant; only variants depend on the module that changes pairs."""
    pairs = open_pairs(folder, fold)
    if change is None:
        return pairs
    return importlib.import_module("neuroalign.pairs.variants").change_pairs(pairs, change, seed)


def stage_function(stage: str) -> Any:
    """The function of a stage."""
    module, name = stage.split(":")
    return getattr(importlib.import_module(module), name)


def _check_gpus(config: Train) -> None:
    import torch

    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device != "cpu" and (visible or config.device == "cuda") and config.processes > visible:
        raise UserError(
            f"train.processes is {config.processes}, but PyTorch sees {visible} GPU{'s' * (visible != 1)} here and each process "
            "takes one: lower train.processes, make more GPUs visible, or set train.device to cpu."
        )


def _run(folder: Path, processes: int, threads: int, log_file: Path | None) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(processes), "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
        *("--local-addr", "localhost", "-m", "neuroalign.training.worker", str(folder)),
    ]
    path = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(path)}
    if log_file is None:
        code = subprocess.run(command, env=environment, check=False).returncode
    else:
        with Path(log_file).open("ab") as output:
            code = subprocess.run(
                command, env=environment, check=False, stdout=output, stderr=subprocess.STDOUT
            ).returncode
    if not code:
        return
    said = folder / "error.txt"
    if said.exists():
        raise UserError(said.read_text())
    raise RuntimeError(f"one of {processes} training processes failed; its log says why")
