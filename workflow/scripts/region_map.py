"""Slices of the atlas in the template, by which regional results are drawn."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.fmri import Atlas
    from neuroalign.report.region_map import write_region_map

    write_region_map(
        Atlas(**snakemake.params.atlas),
        snakemake.params.space,
        snakemake.input.outline[0],
        snakemake.output[0],
    )
