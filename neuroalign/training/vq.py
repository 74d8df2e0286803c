"""Stage 2: vector quantisation with DynaSyncMM-EMA on top of a stage-1 model."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from neuroalign.config.train import Train
from neuroalign.io import write_tsv
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import FMRI, TEXT, VIDEO, NeuroAlign
from neuroalign.models.quantise.residual import Quantised
from neuroalign.models.trained import TrainedModel, load
from neuroalign.pairs.blind import blind, learned_from
from neuroalign.pairs.store import PairedDataset
from neuroalign.training.canonical import Samples, choose_recipe
from neuroalign.training.code_regions import code_regions
from neuroalign.training.codes import code_assignments, code_clips, usage, usage_table
from neuroalign.training.data import Batch, TrainingData, take_batch, to_tensors
from neuroalign.training.device import precision, resolve_device
from neuroalign.training.linear_text import TextSamples, joint_maps
from neuroalign.training.loop import Trainer, history_table, parameter_groups
from neuroalign.training.ntcl import ADAPTATION, delay_table, encode, fingerprint
from neuroalign.training.processes import ALONE, Processes
from neuroalign.training.seeds import seeded
from neuroalign.training.terms import vq_loss, vq_terms
from neuroalign.training.validation import (
    choose_weights,
    mean_retrieval,
    text_candidates,
    validation_scores,
)

log = logging.getLogger(__name__)

_START_WINDOWS = 1024


def train_vq(
    pairs: PairedDataset,
    ntcl_dir: Path,
    out: Path,
    config: Train,
    seed: int,
    *,
    made_by: dict,
    memory_mb: float | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train stage 2 and write the files of stage 1 plus ``codes.tsv``, ``code_clips.tsv``,
    ``code_regions.tsv`` and ``usage.tsv``.

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
    memory_mb, processes
        As of `train_ntcl`.
    """
    out, stage = Path(out), config.vq
    device = resolve_device(config, processes)
    start = load(ntcl_dir)
    seen = blind(pairs)
    data = to_tensors(seen, start.scalers, memory_mb)
    settings = config.model_dump(mode="json", exclude={"seeds", "memory_mb"})
    mark = fingerprint(settings, seed, data, start.scalers.arrays() | start.network.state_dict())
    with seeded(seed) as generator:
        architecture = replace(start.network.architecture, vq=stage.model_dump(mode="json"))
        network = NeuroAlign(architecture)
        network.load_state_dict({**network.state_dict(), **start.network.state_dict()})
        network, data = network.to(device), data.to(device)
        if processes.first:
            _start_codebooks(network, data, generator, listens=start.weights.text > 0)
        processes.like_first(network, generator)
        slow = stage.lr * stage.encoder_lr
        rates = dict.fromkeys(("encoders.", "pools.", "log_scale."), slow)
        rates |= {} if config.ntcl.hrf_lr else {ADAPTATION: 0.0}
        groups = parameter_groups(network, stage, rates)
        trainer = Trainer(network, stage, groups, generator, out, mark, processes)
        latest: dict[str, Quantised] = {}
        present: dict[str, Tensor] = {}

        def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            encoded = encode(network, batch, precision(config, device), processes)
            terms, quantised = vq_terms(network, encoded, batch, config)
            latest.update(quantised)
            if TEXT in encoded:
                present[TEXT] = encoded[TEXT].present
            return vq_loss(terms, stage, config.text), terms

        def validate(epoch: int) -> tuple[float, Iterable[tuple[str, str, float]]]:
            scores, _ = validation_scores(network, data, stage.near_steps, (start.weights.text,))
            found = mean_retrieval(scores, start.weights)
            rows = [("validation", name, value) for name, value in found.items() if "fused" not in name]
            rows += [("usage", name, value) for name, value in usage(network, data).items()]
            return 0.5 * (found["continuous_quality"] + found["quantised_quality"]), rows

        def update() -> None:
            network.quantiser.update(latest, generator, present, processes)

        def drawn(rows: Tensor) -> Batch:
            return take_batch(data, data.train, rows, processes)

        history = trainer.fit(len(data.train.clip), step, validate, update, drawn, not data.ready)
        if not processes.first:
            return
        # Text that stage 1 did not want was not heard by the codebooks either.
        candidates = text_candidates(start.weights.text)
        scores, centres = validation_scores(network, data, stage.near_steps, candidates)
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
            "learned_from": learned_from(seen),
            "provenance": made_by,
        },
        start.subject_units,
    )
    levels = list(architecture.brain_levels)
    write_tsv(out / "history.tsv", history_table([row for row in history if row[1] != "usage"]))
    write_tsv(out / "usage.tsv", usage_table([row for row in history if row[1] == "usage"], levels))
    write_tsv(out / "codes.tsv", code_assignments(model, pairs))
    write_tsv(out / "code_clips.tsv", code_clips(model, pairs))
    write_tsv(out / "code_regions.tsv", code_regions(model, pairs))
    write_tsv(out / "delays.tsv", delay_table(network))
    model.save(out)


@torch.no_grad()
def _start_codebooks(
    network: NeuroAlign, data: TrainingData, generator: torch.Generator, listens: bool
) -> None:
    """Projections at the canonical directions of each level's tokens, then k-means codebooks of all modalities.

    A code is shared by a brain token and its video token only where both are projected to the same place: that is what
    the canonical directions are. They are regularised by cross-validation, as at the start of stage 1. Text has a say in
    them where the score `listens` to it, and is projected to the same place otherwise.
    """
    rows = torch.randperm(len(data.train.clip), generator=generator)[:_START_WINDOWS]
    batch = take_batch(data, data.train, rows.to(data.train.clip.device))
    network.eval()
    encoded = encode(network, batch, nullcontext())
    tokens = {modality: e.tokens for modality, e in encoded.items()}
    present = {TEXT: encoded[TEXT].present} if TEXT in encoded else {}
    if network.architecture.encoder["linear_start"]:
        projections = network.quantiser.projections
        for level in range(tokens[FMRI].shape[2]):
            x, y = (tokens[m][:, :, level].cpu() for m in (FMRI, VIDEO))
            samples = Samples(x, y, batch.own.cpu(), batch.brain.subject.cpu(), shared=True)
            content = Content(*(value.cpu() for value in vars(batch.columns).values()))
            width = projections[FMRI].shape[-1]
            recipe = choose_recipe(samples, content, width)
            if TEXT in encoded:
                text = TextSamples(tokens[TEXT][:, :, level].cpu(), present[TEXT].cpu())
                maps = joint_maps(samples, text, torch.arange(len(x)), recipe, width, float(listens))
            else:
                maps = samples.fit(torch.arange(len(x))).maps(recipe, width)
            for modality, values in zip((FMRI, VIDEO, TEXT), (maps[0][0], *maps[1:]), strict=False):
                projections[modality][level] = values.to(projections[modality].device)
    network.quantiser.start_from(tokens, generator, present=present)
    network.train()
