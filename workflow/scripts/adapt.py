"""Adapt a trained model to the first minutes of every unseen person, and score their later clips."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.adapt import Adapt
    from neuroalign.evaluation.learning_curve import curve_scores
    from neuroalign.evaluation.scores import write_scores
    from neuroalign.io import provenance, write_json
    from neuroalign.models.trained import load
    from neuroalign.pairs.store import read_pairs
    from neuroalign.plan_models import parse_branch

    fold, _ = parse_branch(snakemake.wildcards.branch)
    pairs = read_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    config = snakemake.params.adapt
    scores, chosen = curve_scores(
        load(Path(snakemake.input.model).parent), pairs, Adapt(**config), snakemake.params.guard_s
    )
    inputs = {Path(p).name: p for p in [*snakemake.input.pairs, snakemake.input.model]}
    made_by = provenance({"adapt": config}, inputs)
    for content, found in scores.items():
        write_scores(snakemake.output[content], found, made_by)
    write_json(snakemake.output.choices, {"subjects": chosen, "provenance": made_by})
