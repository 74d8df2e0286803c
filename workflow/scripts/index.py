"""Write the index that the workflow was planned with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.io import write_tsv
    from neuroalign.plan import make_plan

    plan = make_plan(snakemake.config)
    write_tsv(snakemake.output.runs, plan.runs)
    write_tsv(snakemake.output.presentations, plan.presentations)
