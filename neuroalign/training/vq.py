"""Stage 2: vector quantisation with DynaSyncMM-EMA on top of a stage-1 model."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neuroalign.config.train import Train, Vq
from neuroalign.io import write_tsv
from neuroalign.models.losses.contrast import Content, soft_targets
from neuroalign.models.losses.prediction import prediction_loss
from neuroalign.models.model import FMRI, VIDEO, Encoded, NeuroAlign
from neuroalign.models.quantise.losses import code_agreement, commitment, reconstruction
from neuroalign.models.quantise.residual import Quantised
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel, load
from neuroalign.pairs.store import PairedDataset
from neuroalign.training.data import Batch, TrainingData, take_batch, to_tensors
from neuroalign.training.device import precision, resolve_device
from neuroalign.training.linear_start import Samples, choose_recipe
from neuroalign.training.loop import Trainer, history_table, parameter_groups
from neuroalign.training.ntcl import delay_table, encode, fingerprint, ntcl_loss, ntcl_terms
from neuroalign.training.seeds import seeded
from neuroalign.training.validation import (
    choose_weights,
    mean_retrieval,
    validation_embeddings,
    validation_scores,
)

log = logging.getLogger(__name__)

_START_WINDOWS = 1024


def vq_terms(
    network: NeuroAlign, brain: Encoded, video: Encoded, batch: Batch, config: Train
) -> tuple[dict[str, Tensor], dict[str, Quantised]]:
    """The terms of stage 2 on one batch, unweighted (a term with weight 0 is absent), and the quantised tokens."""
    stage, weights, quantiser = config.vq, config.vq.terms, network.quantiser
    b, v = quantiser(FMRI, brain.tokens), quantiser(VIDEO, video.tokens)
    own = batch.own
    targets = soft_targets(batch.rows, batch.columns, config.ntcl.soften_s)
    terms = {}
    if weights.commitment:
        terms["commitment"] = 0.5 * (
            commitment(b.tokens, b.codes, v.codes[own]) + commitment(v.tokens[own], v.codes[own], b.codes)
        )
    if weights.agreement:
        terms["agreement"] = code_agreement(
            quantiser.distributions(b.tokens, stage.temperature),
            quantiser.distributions(v.tokens, stage.temperature),
            own,
            targets,
        )
    decoded = {FMRI: quantiser.decode(FMRI, b.codes), VIDEO: quantiser.decode(VIDEO, v.codes)}
    if weights.reconstruction:
        terms["reconstruction"] = 0.5 * (
            reconstruction(decoded[FMRI], brain.tokens) + reconstruction(decoded[VIDEO], video.tokens)
        )
    if weights.prediction and brain.steps.shape[1] > 1:
        steps = {m: network.pools[m].steps(tokens) for m, tokens in decoded.items()}
        terms["prediction"] = prediction_loss(
            network.predictors[FMRI](steps[FMRI]),
            network.predictors[VIDEO](steps[VIDEO]),
            brain.steps,
            video.steps,
            targets,
            network.scale("pred"),
        )
    if weights.contrast:
        terms["contrast"] = ntcl_loss(ntcl_terms(network, brain, video, batch, config.ntcl), config.ntcl)
    return terms, {FMRI: b, VIDEO: v}


def vq_loss(terms: dict[str, Tensor], config: Vq) -> Tensor:
    """The weighted sum of `vq_terms`."""
    return sum(value * getattr(config.terms, name) for name, value in terms.items())


def train_vq(
    pairs: PairedDataset, ntcl_dir: Path, out: Path, config: Train, seed: int, *, made_by: dict
) -> None:
    """Train stage 2 and write the files of stage 1 plus ``codes.tsv``, ``code_clips.tsv`` and ``usage.tsv``.

    The epoch is chosen by the mean of the continuous and the quantised score's `rank_quality` on validation; then alpha and
    beta of the score by `choose_weights`.

    Parameters
    ----------
    pairs : PairedDataset
        Only its train and validation splits are looked at.
    ntcl_dir : path
        Folder of the stage-1 model.
    out : path
        Folder of the stage.
    config : Train
    seed : int
    made_by : dict
        Provenance, kept in ``model.json``.
    """
    out, stage = Path(out), config.vq
    device = resolve_device(config)
    start = load(ntcl_dir)
    data = to_tensors(pairs, start.scalers)
    mark = fingerprint(config.model_dump(mode="json", exclude={"seeds"}), seed, data)
    with seeded(seed) as generator:
        architecture = replace(start.network.architecture, vq=stage.model_dump(mode="json"))
        network = NeuroAlign(architecture)
        network.load_state_dict({**network.state_dict(), **start.network.state_dict()})
        network, data = network.to(device), data.to(device)
        _start_codebooks(network, data, generator)
        slow = stage.lr * stage.encoder_lr
        rates = dict.fromkeys(("encoders.", "pools.", "log_scale."), slow)
        trainer = Trainer(network, stage, parameter_groups(network, stage, rates), generator, out, mark)
        latest: dict[str, Quantised] = {}

        def step(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            batch = take_batch(data, data.train, rows.to(device))
            brain, video = encode(network, batch, precision(config, device))
            terms, quantised = vq_terms(network, brain, video, batch, config)
            latest.update(quantised)
            return vq_loss(terms, stage), terms

        def validate(epoch: int) -> tuple[float, Iterable[tuple[str, str, float]]]:
            scores, _ = validation_scores(network, data, stage.near_steps)
            found = mean_retrieval(scores, start.weights)
            rows = [("validation", name, value) for name, value in found.items() if "fused" not in name]
            rows += [("usage", name, value) for name, value in usage(network, data).items()]
            return 0.5 * (found["continuous_quality"] + found["quantised_quality"]), rows

        history = trainer.fit(
            len(data.train.clip), step, validate, lambda: network.quantiser.update(latest, generator)
        )
        scores, centres = validation_scores(network, data, stage.near_steps)
        weights = choose_weights(scores, stage.near_steps)
    model = TrainedModel(
        network.cpu().eval(),
        start.scalers,
        weights,
        centres,
        start.unit_labels,
        start.geometry,
        {
            "stage": "vq",
            "seed": seed,
            "best_epoch": trainer.best_epoch,
            "validation": mean_retrieval(scores, weights),
            "config": config.model_dump(mode="json"),
            "provenance": made_by,
        },
        start.subject_units,
    )
    levels = list(architecture.brain_levels)
    write_tsv(out / "history.tsv", history_table([row for row in history if row[1] != "usage"]))
    write_tsv(out / "usage.tsv", usage_table([row for row in history if row[1] == "usage"], levels))
    write_tsv(out / "codes.tsv", code_assignments(model, pairs))
    write_tsv(out / "code_clips.tsv", code_clips(model, pairs))
    write_tsv(out / "delays.tsv", delay_table(network))
    model.save(out)


@torch.no_grad()
def _start_codebooks(network: NeuroAlign, data: TrainingData, generator: torch.Generator) -> None:
    """Projections at the canonical directions of each level's tokens, then k-means codebooks of both modalities.

    A code is shared by a brain token and its video token only where both are projected to the same place: that is what
    the canonical directions are. They are regularised by cross-validation, as at the start of stage 1.
    """
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_START_WINDOWS]
    batch = take_batch(data, data.train, rows.to(data.train.clip.device))
    network.eval()
    tokens = {FMRI: network.encode_fmri(batch.brain).tokens, VIDEO: network.encode_video(batch.video).tokens}
    if network.architecture.encoder["linear_start"]:
        projections = network.quantiser.projections
        for level in range(tokens[FMRI].shape[2]):
            x, y = (tokens[m][:, :, level].cpu() for m in (FMRI, VIDEO))
            samples = Samples(x, y, batch.own.cpu(), batch.brain.subject.cpu(), shared=True)
            content = Content(*(value.cpu() for value in vars(batch.columns).values()))
            width = projections[FMRI].shape[-1]
            maps = samples.fit(torch.arange(len(x))).maps(choose_recipe(samples, content, width), width)
            projections[FMRI][level] = maps[0][0].to(projections[FMRI].device)
            projections[VIDEO][level] = maps[1].to(projections[VIDEO].device)
    network.quantiser.start_from(tokens, generator)
    network.train()


def usage(network: NeuroAlign, data: TrainingData) -> dict[str, float]:
    """Code usage on the validation split.

    Returns
    -------
    dict
        Keys ``level/depth/measure`` with numbers for level and depth; measures are `perplexity` and
        `used_share` of all tokens, the same by modality (``perplexity_fmri`` ...), and `same_code_share`, the share of
        paired tokens (same clip, step, level) that take the same code at this depth and at all depths before, and
        `same_code_chance`, that share if the two modalities drew their codes independently.
    """
    brain, video, own = validation_embeddings(network, data)
    out = {}
    levels, depths = brain.index.shape[2:]
    size, chance = network.architecture.vq["codes"], {}
    for level in range(levels):
        same = np.ones(brain.index.shape[:2], bool)
        for depth in range(depths):
            taken = {FMRI: brain.index[:, :, level, depth], VIDEO: video.index[:, :, level, depth]}
            same = same & (taken[FMRI] == taken[VIDEO][own])
            counts = {m: np.bincount(t.ravel(), minlength=size) for m, t in taken.items()}
            found = {"same_code_share": float(same.mean())}
            shares = [count / max(count.sum(), 1) for count in counts.values()]
            chance[level] = chance.get(level, 1.0) * float(np.prod(shares, axis=0).sum())
            found["same_code_chance"] = chance[level]
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
    """How often each code is taken: level, depth (from 1), code, modality, count.

    Parameters
    ----------
    model : TrainedModel
        Of stage 2.
    pairs : PairedDataset
    split : str, optional
        None counts the train and validation splits together. Clips count once per presentation in both modalities.
    """
    levels = list(model.network.architecture.brain_levels)
    size = model.network.architecture.vq["codes"]
    counts: dict[tuple[int, int, str], np.ndarray] = {}
    for subject in pairs.subjects:
        for part in [split] if split else ["train", "validation"]:
            windows, rows = pairs.of(subject, part)
            if not len(rows):
                continue
            clips = model.embed_video({name: x[rows] for name, x in pairs.video.levels.items()})
            for modality, found in ((FMRI, model.embed_fmri(windows, subject)), (VIDEO, clips)):
                _count(counts, modality, found, size)
    records = [
        (levels[level], depth + 1, code, modality, int(n))
        for (level, depth, modality), count in sorted(counts.items())
        for code, n in enumerate(count)
    ]
    return pd.DataFrame(records, columns=["level", "depth", "code", "modality", "count"])


def code_clips(model: TrainedModel, pairs: PairedDataset, codes: int = 12, clips: int = 8) -> pd.DataFrame:
    """The clips that take the most used codes of the first depth: level, depth, code, clip_id, count.

    Parameters
    ----------
    model : TrainedModel
        Of stage 2.
    pairs : PairedDataset
        Its train and validation splits are looked at.
    codes, clips : int
        Most codes per level, and most clips per code. Every presentation's brain tokens count, and its video tokens.
    """
    levels, ids = list(model.network.architecture.brain_levels), pairs.video.clip_ids
    size = model.network.architecture.vq["codes"]
    counts = np.zeros((len(levels), size, len(ids)), np.int64)
    for subject in pairs.subjects:
        for split in ("train", "validation"):
            windows, rows = pairs.of(subject, split)
            if not len(rows):
                continue
            video = model.embed_video({name: x[rows] for name, x in pairs.video.levels.items()})
            for found in (model.embed_fmri(windows, subject), video):
                for level in range(len(levels)):
                    first = found.index[:, :, level, 0]
                    np.add.at(counts[level], (first, np.broadcast_to(rows[:, None], first.shape)), 1)
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


def _count(
    counts: dict[tuple[int, int, str], np.ndarray], modality: str, found: Embedding, size: int
) -> None:
    for level in range(found.index.shape[2]):
        for depth in range(found.index.shape[3]):
            taken = np.bincount(found.index[:, :, level, depth].ravel(), minlength=size)
            key = (level, depth, modality)
            counts[key] = counts.get(key, 0) + taken
