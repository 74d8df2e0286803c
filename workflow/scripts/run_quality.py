"""The quality page of a run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.fmri import Fmri
    from neuroalign.report.run_quality import write_run_page

    write_run_page(
        snakemake.wildcards.run_id,
        snakemake.input.series,
        snakemake.input.qc,
        snakemake.params.files,
        snakemake.output[0],
        Fmri(**snakemake.params.fmri),
        shown=snakemake.params.shown,
    )
