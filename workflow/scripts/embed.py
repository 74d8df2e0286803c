"""Compute the features of a film."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.video import Video
    from neuroalign.video.embed import embed

    # No weights: an empty list.
    (weights,) = [*snakemake.input.get("weights", [])] or [None]
    embed(
        snakemake.input.video,
        snakemake.output[0],
        Video(**snakemake.params.video),
        threads=snakemake.threads,
        weights=weights,
    )
