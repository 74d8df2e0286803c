"""Score every test window against every candidate clip with a trained model."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.evaluation.leakage import check_model
    from neuroalign.evaluation.scores import SubjectScores, write_scores
    from neuroalign.io import provenance
    from neuroalign.models.score import score_pairs
    from neuroalign.models.trained import load
    from neuroalign.pairs.stored import open_pairs
    from neuroalign.plan_models import parse_branch

    fold, seed = parse_branch(snakemake.wildcards.branch)
    pairs = open_pairs(Path(snakemake.input.pairs[0]).parent, fold)
    # Only a variant of the model has this, and depends on the code.
    if change := snakemake.params.get("change"):
        from neuroalign.pairs.variants import change_pairs

        pairs = change_pairs(pairs, change, seed)
    model = load(Path(snakemake.input.model).parent)
    check_model(model, pairs)
    scores = score_pairs(model, pairs)
    if "variant" in snakemake.wildcards.keys():  # noqa: SIM118
        # The parts of a variant's continuous score are not reported: few would be read, and each costs an evaluation.
        kept = ("fused", "quantised")
        scores = {
            subject: (rows, gallery, {name: parts[name] for name in kept if name in parts})
            for subject, (rows, gallery, parts) in scores.items()
        }
    inputs = {Path(p).name: p for p in [*snakemake.input.pairs, snakemake.input.model]}
    write_scores(
        snakemake.output[0],
        {subject: SubjectScores(*item) for subject, item in scores.items()},
        provenance(None, inputs),
    )
