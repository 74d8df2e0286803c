"""Raw BOLD of a run to template space."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.bids.derivatives import dataset_root
    from neuroalign.bids.metadata import sidecar
    from neuroalign.config.fmri import Preprocess
    from neuroalign.fmri.preprocess.native import preprocess_run

    settings = dict(snakemake.params.preprocess)
    space = settings.pop("space")
    bold = snakemake.input.bold
    preprocess_run(
        bold,
        snakemake.params.anatomy,
        dataset_root(snakemake.output.bold),
        snakemake.wildcards.run_id,
        metadata=sidecar(bold, snakemake.params.bids_dir),
        config=Preprocess(**settings),
        space=space,
        threads=snakemake.threads,
    )
