"""Train stage 1 (NTCL)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.train import Train
    from neuroalign.io import provenance
    from neuroalign.pairs.build import read_geometry
    from neuroalign.pairs.store import read_pairs
    from neuroalign.plan import parse_branch
    from neuroalign.training.ntcl import train_ntcl

    fold, seed = parse_branch(snakemake.wildcards.branch)
    pairs = Path(snakemake.input.pairs[0]).parent
    train_ntcl(
        read_pairs(pairs, fold),
        Path(snakemake.output.model).parent,
        Train(**snakemake.params.train, vq={"near_steps": snakemake.params.near_steps}),
        seed,
        geometry=read_geometry(pairs),
        made_by=provenance(snakemake.params.train, {Path(p).name: p for p in snakemake.input.pairs}),
    )
