"""Cleaned regional series of a run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.fmri import Fmri
    from neuroalign.fmri.extract import extract_run

    extract_run(
        snakemake.params.run,
        Fmri(**snakemake.params.fmri),
        snakemake.output.series,
        snakemake.output.qc,
        bids_dir=snakemake.params.bids_dir,
        preproc_dir=snakemake.params.preproc,
    )
