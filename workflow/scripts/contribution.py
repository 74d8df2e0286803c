"""Measure what levels and regions of the brain contribute to retrieval with a trained model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.evaluate import Evaluate
    from neuroalign.evaluation.contributions import contributions
    from neuroalign.io import write_tsv
    from neuroalign.models.trained import load
    from neuroalign.pairs.store import read_pairs
    from neuroalign.plan_models import parse_branch

    fold, _ = parse_branch(snakemake.wildcards.branch)
    pairs = read_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    model = load(Path(snakemake.input.model).parent)
    write_tsv(snakemake.output[0], contributions(model, pairs, Evaluate(**snakemake.params.evaluate)))
