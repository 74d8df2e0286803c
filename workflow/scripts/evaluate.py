"""Turn the scores of all methods into metrics, comparisons, controls and ceilings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.evaluate import Evaluate
    from neuroalign.evaluation.evaluate import ScoreFile, evaluate, write_results
    from neuroalign.io import provenance
    from neuroalign.plan_models import parse_branch

    def files(paths):
        found = []
        for path in map(Path, paths):
            fold, seed = parse_branch(path.stem)
            found.append(ScoreFile(path.parent.name, seed, fold, path))
        return found

    scores, retrained = files(snakemake.input.scores), files(snakemake.input.controls)
    config, folds = snakemake.params.evaluate, snakemake.params.folds
    pairs = Path(snakemake.input.pairs[0]).parent
    results = evaluate(scores, pairs, Evaluate(**config), folds, snakemake.params.guard_s, retrained)
    inputs = {f"{f.model}/{Path(f.path).name}": f.path for f in [*scores, *retrained]}
    write_results(results, Path(snakemake.output.metrics).parent, provenance({"evaluate": config}, inputs))
