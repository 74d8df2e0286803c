"""Let BLIP-2 describe a film."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.text import Text
    from neuroalign.text.described import describe

    given, made = snakemake.input, snakemake.output
    config = Text(**snakemake.params.text)
    describe(given.film, made.said, made.record, config, given.weights[0], threads=snakemake.threads)
