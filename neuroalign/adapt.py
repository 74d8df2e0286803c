"""Adaptation of a trained model to a new person, from files to files: ``neuroalign adapt``."""

from __future__ import annotations

import os
from pathlib import Path

from neuroalign.errors import UserError, nearest
from neuroalign.io import provenance, write_tsv
from neuroalign.models.trained import META_FILE, WEIGHTS_FILE, load, model_folder
from neuroalign.pairs.store import read_clips, read_pairs
from neuroalign.training.adapt import PRIOR_MINUTES, Adapted, adapt


def adapt_files(
    model: str | os.PathLike,
    pairs: str | os.PathLike,
    subject: str,
    out: str | os.PathLike,
    *,
    minutes: float | None = None,
    prior_minutes: float = PRIOR_MINUTES,
    fold: int = 0,
) -> Adapted:
    """Adapt a saved model to a person and save it with them.

    Parameters
    ----------
    model : path
        A trained model or the branch folder of one (see `neuroalign.load`).
    pairs : path
        A ``pairs`` folder that holds the person. People whom the model was trained on help where they saw the same clips.
    subject : str
        Label, with or without ``sub-``.
    out : path
        Folder of the new model: ``model.safetensors``, ``model.json`` and ``adaptation.tsv``, the clips it was adapted on.
    minutes : float, optional
        All by default.
    prior_minutes : float
        See `training.adapt.adapt`.
    fold : int
        Fold of the split that the model belongs to.

    Raises
    ------
    UserError
        If a file is missing or does not fit, the model knows the person, or `out` is the model's own folder.
    """
    label, source, out = subject.removeprefix("sub-"), model_folder(model), Path(out)
    if out.resolve() == source.resolve():
        raise UserError(f"--out is the folder of the model itself ({out}); give another one.")
    for name, value in (("--minutes", minutes), ("--prior-minutes", prior_minutes)):
        if value is not None and value <= 0:
            raise UserError(f"{name} is {value:g}; give a number above 0.")
    folder = Path(pairs)
    everybody = list(dict.fromkeys(read_clips(folder / "clips.tsv", fold)["subject"]))
    if label not in everybody:
        raise UserError(
            f"{folder} holds no subject '{label}'{nearest(label, everybody)}; it holds {', '.join(everybody)}."
        )
    data = read_pairs(folder, fold)
    inputs = {
        "model": source / WEIGHTS_FILE,
        "description": source / META_FILE,
        "clips": folder / "clips.tsv",
        "windows": folder / f"sub-{label}.h5",
    }
    made_by = provenance({"minutes": minutes, "prior_minutes": prior_minutes, "fold": fold}, inputs)
    trained = load(source)
    found = adapt(trained, data, label, minutes, prior_minutes=prior_minutes, made_by=made_by)
    if not len(found.rows):
        raise UserError(
            f"The first clip of subject '{label}' is longer than {minutes:g} minutes; raise --minutes."
        )
    write_tsv(out / "adaptation.tsv", data.clips.iloc[found.rows])
    found.model.save(out)
    return found
