"""Brain and white matter of the template, for the pages of all runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.report.template_outline import write_template_outline

    write_template_outline(snakemake.params.space, snakemake.params.template, snakemake.output[0])
