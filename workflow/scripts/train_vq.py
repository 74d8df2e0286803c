"""Train stage 2 (vector quantisation with DynaSyncMM-EMA)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.train import Train
    from neuroalign.io import provenance
    from neuroalign.plan_models import parse_branch
    from neuroalign.training.launch import run_stage

    fold, seed = parse_branch(snakemake.wildcards.branch)
    inputs = {Path(p).name: p for p in [*snakemake.input.pairs, snakemake.input.ntcl]}
    run_stage(
        "neuroalign.training.vq:train_vq",
        Path(snakemake.input.pairs[0]).parent,
        fold,
        Train(**snakemake.params.train, memory_mb=snakemake.resources.mem_mb),
        change=snakemake.params.get("change"),
        threads=snakemake.threads,
        log_file=snakemake.log[0],
        ntcl_dir=str(Path(snakemake.input.ntcl).parent),
        out=str(Path(snakemake.output.model).parent),
        seed=seed,
        made_by=provenance(snakemake.params.train, inputs),
    )
