"""Brain extraction, tissue classes and normalisation of a T1w image."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.bids.derivatives import dataset_root
    from neuroalign.fmri.preprocess.anatomy import preprocess_anatomy

    settings = snakemake.params.preprocess
    preprocess_anatomy(
        snakemake.input.t1w,
        dataset_root(snakemake.output.t1w),
        space=settings["space"],
        template=settings["template"],
    )
