"""Normalise a film to a constant-frame-rate, upright mezzanine."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.video import Video
    from neuroalign.video.normalise import normalise

    normalise(
        snakemake.input.video,
        snakemake.output.video,
        snakemake.output.record,
        Video(**snakemake.params.video, on_damage=snakemake.params.on_damage),
        threads=snakemake.threads,
    )
