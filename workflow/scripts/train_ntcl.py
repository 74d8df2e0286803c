"""Train stage 1 (NTCL)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.train import Train
    from neuroalign.io import provenance
    from neuroalign.pairs.build import read_geometry
    from neuroalign.plan_models import parse_branch
    from neuroalign.training.launch import run_stage

    fold, seed = parse_branch(snakemake.wildcards.branch)
    pairs = Path(snakemake.input.pairs[0]).parent
    settings = {"vq": {"near_steps": snakemake.params.near_steps}, "memory_mb": snakemake.resources.mem_mb}
    run_stage(
        "neuroalign.training.ntcl:train_ntcl",
        pairs,
        fold,
        Train(**snakemake.params.train, **settings),
        change=snakemake.params.get("change"),
        threads=snakemake.threads,
        log_file=snakemake.log[0],
        out=str(Path(snakemake.output.model).parent),
        seed=seed,
        geometry=read_geometry(pairs),
        made_by=provenance(snakemake.params.train, {Path(p).name: p for p in snakemake.input.pairs}),
    )
