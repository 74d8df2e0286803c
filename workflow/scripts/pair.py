"""Pair brain and video windows."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from neuroalign.jobs import job

with job(snakemake):
    from neuroalign.config.fmri import Hrf, Selection
    from neuroalign.config.pairs import Clips, Split
    from neuroalign.io import provenance, read_tsv
    from neuroalign.pairs.build import build_pairs

    given, params = snakemake.input, snakemake.params
    text = ("run_id", "subject", "session", "task", "run", "stimulus", "stimulus_file", "trial_type")
    config = {name: getattr(params, name) for name in ("clips", "hrf", "split", "selection")}
    captions = dict(zip(params.captioned, map(Path, given.captions), strict=True))
    # Captions are named as the embeddings of their stimulus.
    inputs = {Path(p).name: p for p in [*given.series, *given.embeddings]}
    inputs |= {f"captions/{path.name}": path for path in captions.values()}
    build_pairs(
        read_tsv(given.presentations, text=text),
        dict(zip(params.run_ids, map(Path, given.series), strict=True)),
        dict(zip(params.stimuli, map(Path, given.embeddings), strict=True)),
        Path(snakemake.output.clips).parent,
        clips=Clips(**params.clips),
        hrf=Hrf(**params.hrf),
        split=Split(**params.split),
        selection=Selection(**params.selection),
        # Features that were brought have no films, and no records of them.
        records=dict(zip(params.stimuli, map(Path, given.records), strict=True)) if given.records else None,
        on_damage=params.on_damage,
        caption_files=captions,
        made_by=provenance(config, inputs),
    )
