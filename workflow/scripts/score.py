"""Score every test window against every candidate clip with a trained model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.evaluation.scores import SubjectScores, write_scores
    from neuroalign.io import provenance
    from neuroalign.models.score import score_pairs
    from neuroalign.models.trained import load
    from neuroalign.pairs.stored import open_pairs
    from neuroalign.plan import parse_branch

    fold, _ = parse_branch(snakemake.wildcards.branch)
    pairs = open_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    scores = score_pairs(load(Path(snakemake.input.model).parent), pairs)
    inputs = {Path(p).name: p for p in [*snakemake.input.pairs, snakemake.input.model]}
    write_scores(
        snakemake.output[0],
        {subject: SubjectScores(*item) for subject, item in scores.items()},
        provenance(None, inputs),
    )
