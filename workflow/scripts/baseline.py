"""Train a baseline and score the test windows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.evaluation.baselines import run_baseline
    from neuroalign.evaluation.scores import write_scores
    from neuroalign.io import provenance, write_json
    from neuroalign.pairs.store import read_pairs
    from neuroalign.plan_models import parse_branch

    fold, seed = parse_branch(snakemake.wildcards.branch)
    pairs = read_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    scores, chosen = run_baseline(snakemake.wildcards.method, pairs, seed)
    made_by = provenance(chosen, {Path(p).name: p for p in snakemake.input.pairs})
    write_json(snakemake.output.choices, chosen)
    write_scores(snakemake.output.scores, scores, made_by)
