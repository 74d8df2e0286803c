"""Find words for a film, and vectors for the words."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.text import Text

    given, made = snakemake.input, snakemake.output[0]
    config = Text(**snakemake.params.text)
    if config.source == "tsv":
        from neuroalign.text.brought import caption_from_table

        caption_from_table(given.said, given.film, made, config, given.text_weights)
    else:
        from neuroalign.text.described import caption_from_film

        weights = given.blip2_weights, given.text_weights
        caption_from_film(given.film, made, config, *weights, threads=snakemake.threads)
