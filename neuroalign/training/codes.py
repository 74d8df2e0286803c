"""How the codebooks are used, and by which clips: the tables that stage 2 writes beside its model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from neuroalign.models.embed import embed_text
from neuroalign.models.model import FMRI, TEXT, VIDEO, NeuroAlign
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.store import BrainWindows, PairedDataset
from neuroalign.training.data import TrainingData
from neuroalign.training.validation import validation_embeddings


def usage(network: NeuroAlign, data: TrainingData) -> dict[str, float]:
    """Code usage on the validation split.

    Returns
    -------
    dict
        Keys ``level/depth/measure`` with numbers for level and depth; measures are `perplexity` and
        `used_share` of all tokens, the same by modality (``perplexity_fmri`` ...), and `same_code_share`, the share of
        paired tokens (same clip, step, level) that take the same code at this depth and at all depths before, and
        `same_code_chance`, that share if the two modalities drew their codes independently. With text also
        `same_code_share_text` and `same_code_chance_text`, of fMRI and text.
    """
    brain, video, own = validation_embeddings(network, data)
    indices, out = {FMRI: brain.index, VIDEO: video.index}, {}
    here = np.ones(brain.index.shape[:2], bool)
    partners = {VIDEO: ("", here)}
    if video.text is not None:
        indices[TEXT], present = video.text.index, video.text.present
        partners[TEXT] = (f"_{TEXT}", present[own])
    levels, depths = brain.index.shape[2:]
    size = network.architecture.vq["codes"]
    for level in range(levels):
        same = dict.fromkeys(partners, here)
        chance = dict.fromkeys(partners, 1.0)
        for depth in range(depths):
            taken = {m: index[:, :, level, depth] for m, index in indices.items()}
            counted = {m: t[present] if m == TEXT else t for m, t in taken.items()}
            counts = {m: np.bincount(t.ravel(), minlength=size) for m, t in counted.items()}
            shares = {m: count / max(count.sum(), 1) for m, count in counts.items()}
            found = {}
            for m, (suffix, paired) in partners.items():
                same[m] = same[m] & (taken[FMRI] == taken[m][own])
                found[f"same_code_share{suffix}"] = float(same[m][paired].mean()) if paired.any() else 0.0
                chance[m] *= float(np.prod([shares[FMRI], shares[m]], axis=0).sum())
                found[f"same_code_chance{suffix}"] = chance[m]
            for suffix, count in [("", sum(counts.values())), *((f"_{m}", c) for m, c in counts.items())]:
                found[f"perplexity{suffix}"] = perplexity(count)
                found[f"used_share{suffix}"] = float((count > 0).mean())
            out |= {f"{level}/{depth}/{name}": value for name, value in found.items()}
    return out


def perplexity(count: np.ndarray) -> float:
    """Exponential of the entropy of a histogram: the effective number of codes in use."""
    share = count[count > 0] / max(count.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum()))


def usage_table(rows: list[tuple[int, str, str, float]], levels: list[str]) -> pd.DataFrame:
    """Rows of the history with `usage` terms as a table: epoch, level, depth (from 1), one column per measure."""
    table = pd.DataFrame(rows, columns=["epoch", "split", "term", "value"])
    parts = table["term"].str.split("/", expand=True)
    table["level"], table["depth"], table["measure"] = (
        parts[0].astype(int),
        parts[1].astype(int) + 1,
        parts[2],
    )
    wide = table.pivot(index=["epoch", "level", "depth"], columns="measure", values="value").reset_index()
    wide["level"] = [levels[i] for i in wide["level"]]
    wide.columns.name = None
    return wide


def code_assignments(model: TrainedModel, pairs: PairedDataset, split: str | None = None) -> pd.DataFrame:
    """How often each code is taken, and what each modality has to say in it: level, depth (from 1), code, modality, count, weight.

    `weight` is w of DynaSyncMM-EMA at the end of training, in a step that has all modalities: above 1 for the modality whose
    tokens lie closer to the code than it is used to, relative to the others.

    Parameters
    ----------
    model : TrainedModel
        Of stage 2.
    pairs : PairedDataset
    split : str, optional
        None counts the train and validation splits together. Clips count once per presentation in every modality.
    """
    levels = list(model.network.architecture.brain_levels)
    size = model.network.architecture.vq["codes"]
    counts: dict[tuple[int, int, str], np.ndarray] = {}
    for subject in pairs.subjects:
        for part in [split] if split else ["train", "validation"]:
            windows, rows = pairs.of(subject, part)
            if not len(rows):
                continue
            for modality, index in _indices(model, pairs, windows, subject, rows).items():
                _count(counts, modality, index, size)
    weights = _code_weights(model.network)
    records = [
        (levels[level], depth + 1, code, modality, int(n), float(weights[level, depth][modality][code]))
        for (level, depth, modality), count in sorted(counts.items())
        for code, n in enumerate(count)
    ]
    return pd.DataFrame(records, columns=["level", "depth", "code", "modality", "count", "weight"])


def _code_weights(network: NeuroAlign) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """w (codes,) of every codebook by modality; 0 for a modality that never had a token."""
    out = {}
    for level, books in enumerate(network.quantiser.codebooks):
        for depth, book in enumerate(books):
            heard = book.error_count.sum(dim=1) > 0
            # Where the start of the stage was kept, no step has told modalities apart yet.
            weights = book.weights(heard if heard.any() else torch.ones_like(heard)).numpy()
            out[level, depth] = dict(zip(book.modalities, weights, strict=True))
    return out


def code_clips(model: TrainedModel, pairs: PairedDataset, codes: int = 12, clips: int = 8) -> pd.DataFrame:
    """The clips that take the most used codes of the first depth: level, depth, code, clip_id, count.

    Parameters
    ----------
    model : TrainedModel
        Of stage 2.
    pairs : PairedDataset
        Its train and validation splits are looked at.
    codes, clips : int
        Most codes per level, and most clips per code. Every presentation's brain tokens count, and those of its video and text.
    """
    levels, ids = list(model.network.architecture.brain_levels), pairs.video.clip_ids
    size = model.network.architecture.vq["codes"]
    counts = np.zeros((len(levels), size, len(ids)), np.int64)
    for subject in pairs.subjects:
        for split in ("train", "validation"):
            windows, rows = pairs.of(subject, split)
            if not len(rows):
                continue
            for index in _indices(model, pairs, windows, subject, rows).values():
                for level in range(len(levels)):
                    first, (clip, step) = index[:, :, level, 0], np.nonzero(index[:, :, level, 0] >= 0)
                    np.add.at(counts[level], (first[clip, step], rows[clip]), 1)
    records = []
    for level, name in enumerate(levels):
        for code in np.argsort(-counts[level].sum(axis=1), kind="stable")[:codes]:
            users = np.argsort(-counts[level, code], kind="stable")[:clips]
            records += [
                (name, 1, int(code), ids[user], int(counts[level, code, user]))
                for user in users
                if counts[level, code, user]
            ]
    return pd.DataFrame(records, columns=["level", "depth", "code", "clip_id", "count"])


def _indices(
    model: TrainedModel, pairs: PairedDataset, windows: BrainWindows, subject: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Codes taken (n, steps, levels, depth) by modality; -1 where there is no token."""
    found = {FMRI: model.embed_fmri(windows, subject).index}
    found[VIDEO] = model.embed_video(pairs.video.select(rows)).index
    if model.network.reads_text and pairs.video.text is not None:
        text = model.text_input(pairs.video.text[rows], pairs.video.has_text[rows])
        found[TEXT] = embed_text(model.network, text).index
    return found


def _count(
    counts: dict[tuple[int, int, str], np.ndarray], modality: str, index: np.ndarray, size: int
) -> None:
    for level in range(index.shape[2]):
        for depth in range(index.shape[3]):
            codes = index[:, :, level, depth]
            taken = np.bincount(codes[codes >= 0], minlength=size)
            key = (level, depth, modality)
            counts[key] = counts.get(key, 0) + taken
