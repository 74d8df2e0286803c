"""Turn the scores of all methods into metrics, comparisons, controls and ceilings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.evaluate import Evaluate
    from neuroalign.evaluation.evaluate import ScoreFile, evaluate, write_results
    from neuroalign.io import provenance
    from neuroalign.plan import parse_branch

    files = []
    for path in map(Path, snakemake.input.scores):
        fold, seed = parse_branch(path.stem)
        files.append(ScoreFile(path.parent.name, seed, fold, path))
    config, folds = snakemake.params.evaluate, snakemake.params.folds
    results = evaluate(
        files, Path(snakemake.input.pairs[0]).parent, Evaluate(**config), folds, snakemake.params.guard_s
    )
    inputs = {f"{f.model}/{Path(f.path).name}": f.path for f in files}
    write_results(results, Path(snakemake.output.metrics).parent, provenance({"evaluate": config}, inputs))
