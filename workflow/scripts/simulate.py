"""Make the demo dataset."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.dataset import Simulate
    from neuroalign.simulate.dataset import make_dataset

    bids_dir = next(
        Path(p).parent for p in snakemake.output.dataset if Path(p).name == "dataset_description.json"
    )
    make_dataset(Simulate(**snakemake.params.simulate), bids_dir, jobs=snakemake.threads)
