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
    folder = Path(snakemake.input.pairs[0]).parent
    pairs = read_pairs(folder, fold)
    # Only a variant of the model has this, and depends on the code.
    if change := snakemake.params.get("change"):
        from neuroalign.pairs.variants import change_pairs

        pairs = change_pairs(pairs, change, seed)
    train_ntcl(
        pairs,
        Path(snakemake.output.model).parent,
        Train(**snakemake.params.train, vq={"near_steps": snakemake.params.near_steps}),
        seed,
        geometry=read_geometry(folder),
        made_by=provenance(snakemake.params.train, {Path(p).name: p for p in snakemake.input.pairs}),
    )
