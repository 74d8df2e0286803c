"""The page of a stimulus."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.report.stimulus_page import write_stimulus_page

    files = {name: path for name, path in snakemake.input.items() if name != "code"}
    write_stimulus_page(snakemake.wildcards.stimulus, files, snakemake.output.page, snakemake.output.record)
