"""Turn the scores of adapted models into the learning curve."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.evaluate import Evaluate
    from neuroalign.evaluation.learning_curve import CurveFile, learning_curve
    from neuroalign.io import write_tsv
    from neuroalign.pairs.store import read_clips
    from neuroalign.plan_models import parse_branch

    files = []
    for path in map(Path, snakemake.input.scores):
        fold, seed = parse_branch(path.parent.name)
        files.append(CurveFile(path.stem, seed, fold, path))
    folder = Path(snakemake.input.pairs[0]).parent
    tables = [read_clips(folder / "clips.tsv", fold) for fold in range(snakemake.params.folds)]
    write_tsv(snakemake.output[0], learning_curve(files, tables, Evaluate(**snakemake.params.evaluate)))
