"""Fetch the weights of a pretrained model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake, internet=True):
    from neuroalign.video.weights import Request, fetch_weights

    fetch_weights(Request(**snakemake.params.request), Path(snakemake.output[0]).parent)
