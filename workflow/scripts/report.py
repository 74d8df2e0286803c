"""Write the report."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.report.build import build_report

    truth = next((Path(p).parent for p in snakemake.input.truth if Path(p).name == "delays.tsv"), None)
    build_report(
        Path(snakemake.params.config["output_dir"]),
        Path(snakemake.output[0]),
        snakemake.params.config,
        truth_dir=truth,
    )
