"""One page with a picture of every stimulus."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.report.stimuli_overview import write_overview

    write_overview(snakemake.input.records, snakemake.output[0])
