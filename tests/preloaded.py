"""Processes that start with Snakemake and the planner already imported.

Most tests of the workflow ask for dry runs, and most of a dry run is imports: three of its four seconds. This program
imports them once and forks for every command, so each is still a process of its own, with its own folder,
environment and standard streams, that runs `python -m MODULE ARGUMENTS` to its end. The jobs of a workflow are
started by Snakemake and know nothing of this.

As a program (`python preloaded.py`) it reads one request a line, in JSON, and answers with the exit status;
as a module it is the other end (`Preloaded`, which the fixture `command` gives to tests).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

# Numeric libraries that start threads when they are imported could not be forked.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Preloaded:
    """Run modules as commands, in forks of a process that has imported what they need."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def __call__(
        self, module: str, *arguments: object, cwd: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess:
        """Run `python -m module arguments` in a folder; what it printed, and its exit status.

        Parameters
        ----------
        module : str
        *arguments : object
            Made into strings.
        cwd : path
        env : dict of str, optional
            The whole environment of the command; that of the tests if absent.
        """
        command = [module, *map(str, arguments)]
        with tempfile.TemporaryDirectory() as folder:
            streams = [f"{folder}/stdout", f"{folder}/stderr"]
            environment = dict(os.environ if env is None else env)
            request = {"command": command, "cwd": str(cwd), "env": environment, "streams": streams}
            print(json.dumps(request), file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
            if not answer:
                raise RuntimeError("The process that runs the tests' commands has ended.")
            stdout, stderr = (Path(stream).read_text() for stream in streams)
        return subprocess.CompletedProcess(command, int(answer), stdout, stderr)

    def close(self) -> None:
        """End the process that waits for commands."""
        self._server.communicate()


def serve() -> None:
    """Fork for every request until there are no more; a child returns, to run what it was asked for."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            become(request)
            return
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)
    os._exit(0)


def become(request: dict) -> None:
    """Turn this process into the one that was asked for: folder, environment, streams and arguments."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    source = os.open(os.devnull, os.O_RDONLY)
    targets = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in request["streams"]]
    for stream, file in enumerate([source, *targets]):
        os.dup2(file, stream)
        os.close(file)
    # Where the buffer of requests was is the end of the input.
    sys.stdin = open(0)  # noqa: SIM115
    sys.argv = request["command"]
    sys.path[0] = request["cwd"]


if __name__ == "__main__":
    # As for `python -m`, not as for a program in the folder of the tests.
    sys.path[0] = os.getcwd()
    for name in ("snakemake.cli", "neuroalign.cli", "neuroalign.plan"):
        importlib.import_module(name)
    # Which files import which is remembered within a process.
    importlib.import_module("neuroalign.modules").source_files(
        *(
            f"neuroalign.{part}.*"
            for part in ("fmri", "video", "text", "pairs", "training", "evaluation", "report")
        )
    )
    # A collection would copy what forks share.
    gc.freeze()
    serve()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
