"""Lay words on the windows of a film, and find their vectors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.text import Text
    from neuroalign.text.build import build_captions

    given, config = snakemake.input, Text(**snakemake.params.text)
    build_captions(
        given.said, given.film, snakemake.output[0], config, given.weights, record=given.get("record")
    )
