"""What every workflow job shares: its log, its threads, and how it fails. Each job is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, types, warnings
from neuroalign.errors import UserError
from neuroalign.jobs import job

snakemake = types.SimpleNamespace(log=[sys.argv[1]], threads=3, rule="extract")
with job(snakemake) as log:
    {body}
print("done")
"""


def run_job(folder: Path, body: str) -> tuple[subprocess.CompletedProcess, str]:
    log = folder / "logs" / "extract" / "run.log"
    command = [sys.executable, "-c", SCRIPT.format(body=body), str(log)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result, log.read_text()


def test_records_and_warnings_go_to_the_log_and_nowhere_else(tmp_path):
    result, log = run_job(tmp_path, "log.info('ten volumes'); warnings.warn('odd units')")
    assert result.returncode == 0
    assert (result.stdout, result.stderr) == ("done\n", "")
    assert "INFO neuroalign: ten volumes" in log
    assert "odd units" in log


def test_numeric_libraries_get_the_threads_of_the_job(tmp_path):
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    result, _ = run_job(tmp_path, f"print([os.environ[name] for name in {names!r}])")
    assert result.stdout.startswith("['3', '3', '3']")


def test_what_the_user_can_mend_is_a_sentence_without_traceback(tmp_path):
    result, log = run_job(tmp_path, "raise UserError('x.nii is truncated; copy it again.')")
    assert result.returncode == 1
    assert result.stderr.strip() == "neuroalign extract: x.nii is truncated; copy it again."
    assert "ERROR neuroalign: x.nii is truncated" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("body", "reason"),
    [("1 / 0", "ZeroDivisionError: division by zero"), ("raise KeyError", "KeyError: KeyError")],
)
def test_a_defect_keeps_its_traceback_in_the_log_and_points_there(tmp_path, body, reason):
    result, log = run_job(tmp_path, body)
    assert result.returncode == 1
    assert f"unexpected {reason}" in result.stderr
    assert f"details in {tmp_path}" in result.stderr
    assert "Traceback" in log
    assert "done" not in result.stdout


def test_only_the_step_that_fetches_weights_may_reach_the_hub(tmp_path):
    body = "import huggingface_hub.constants as c; print(c.HF_HUB_OFFLINE)"
    result, _ = run_job(tmp_path, body)
    assert result.stdout == "True\ndone\n"
    script = SCRIPT.replace("job(snakemake)", "job(snakemake, internet=True)").format(body=body)
    log = str(tmp_path / "other.log")
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    result = subprocess.run(
        [sys.executable, "-c", script, log], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\ndone\n"
