"""Train stage 2 (vector quantisation with DynaSyncMM-EMA)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.train import Train
    from neuroalign.io import provenance
    from neuroalign.pairs.store import read_pairs
    from neuroalign.plan import parse_branch
    from neuroalign.training.vq import train_vq

    fold, seed = parse_branch(snakemake.wildcards.branch)
    pairs = read_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    # Only a variant of the model has this, and depends on the code.
    if change := snakemake.params.get("change"):
        from neuroalign.pairs.variants import change_pairs

        pairs = change_pairs(pairs, change, seed)
    inputs = {Path(p).name: p for p in [*snakemake.input.pairs, snakemake.input.ntcl]}
    train_vq(
        pairs,
        Path(snakemake.input.ntcl).parent,
        Path(snakemake.output.model).parent,
        Train(**snakemake.params.train),
        seed,
        made_by=provenance(snakemake.params.train, inputs),
    )
