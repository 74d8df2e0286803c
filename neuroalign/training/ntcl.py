r"""Stage 1: neural-temporal contrastive learning.

.. math:: L = L_{global} + \lambda_{level} L_{level} + \lambda_{time} L_{time} + \lambda_{pred} L_{pred}
          + \lambda_{shift} \langle \delta_s^2 \rangle

The terms themselves are in `training.terms`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neuroalign.config.train import Ntcl, Train
from neuroalign.io import write_tsv
from neuroalign.models.model import FMRI, TEXT, VIDEO, Architecture, Encoded, NeuroAlign
from neuroalign.models.scaling import Scalers
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.blind import blind, learned_from
from neuroalign.pairs.store import PairedDataset
from neuroalign.training.data import (
    Batch,
    TrainingData,
    fit_scalers,
    take_batch,
    to_tensors,
    trained_subjects,
)
from neuroalign.training.device import precision, resolve_device
from neuroalign.training.linear_start import choose_surround, start_linear
from neuroalign.training.loop import Trainer, history_table, parameter_groups
from neuroalign.training.processes import ALONE, Processes
from neuroalign.training.seeds import seeded
from neuroalign.training.terms import ntcl_loss, ntcl_terms
from neuroalign.training.validation import (
    choose_weights,
    mean_retrieval,
    start_weights,
    text_candidates,
    validation_scores,
)

log = logging.getLogger(__name__)

HRF_PARAMETERS = (
    "encoders.fmri.resample.log_delay",
    "encoders.fmri.resample.log_dispersion",
    "encoders.fmri.resample.subject_shift",
)

# All of temporal adaptation: the response and the attention to what volumes hold.
ADAPTATION = "encoders.fmri.resample."


# Windows of each split that a checkpoint is recognised by.
_LOOKED_AT = 256


def encode(
    network: NeuroAlign, batch: Batch, context: AbstractContextManager, processes: Processes = ALONE
) -> dict[str, Encoded]:
    """All modalities of a batch, in float32 whatever the precision of the forward pass.

    Each process encodes its share of the batch, and all have the whole.
    """
    with context:
        encoded = {FMRI: network.encode_fmri(batch.brain), VIDEO: network.encode_video(batch.video)}
        if batch.text is not None and network.reads_text:
            encoded[TEXT] = network.encode_text(batch.text)
    sizes = {FMRI: len(batch.rows.clip)}
    return {
        m: _whole(e.float(), sizes.get(m, len(batch.columns.clip)), processes) for m, e in encoded.items()
    }


def _whole(own: Encoded, n: int, processes: Processes) -> Encoded:
    """The encoded clips of all processes, n in all."""
    if processes.size == 1:
        return own
    tokens, steps, pooled = (processes.gather(x, n) for x in (own.tokens, own.steps, own.pooled))
    present = None if own.present is None else processes.gather(own.present.byte(), n).bool()
    return Encoded(tokens, steps, pooled, present)


def architecture_of(pairs: PairedDataset, scalers: Scalers, config: Ntcl) -> Architecture:
    """The architecture that fits a paired dataset."""
    first = next(iter(pairs.brain.values()))
    return Architecture(
        brain_levels={level: scalers.brain_width(level) for level in first.levels},
        video_levels={level: scalers.video[level].outputs for level in pairs.video.levels},
        subjects=trained_subjects(pairs),
        shared_units=pairs.same_units,
        aligned=first.aligned,
        step_times=[float(t) for t in pairs.video.step_times],
        encoder=config.encoder.model_dump(mode="json"),
        horizon=config.horizon,
        temperature=config.temperature,
        text_levels={level: scaler.outputs for level, scaler in scalers.text.items()},
    )


def fingerprint(config: Any, seed: int, data: TrainingData, made_of: Mapping[str, Any]) -> str:
    """Identifies what a checkpoint may be resumed with.

    Parameters
    ----------
    config : JSON-like
    seed : int
    data : TrainingData
        Of its brain windows, which may lie on disk, some are looked at.
    made_of : mapping of str to array or Tensor
        What was fitted on all of the data, or trained before.
    """
    digest = hashlib.blake2b(json.dumps([config, seed], sort_keys=True).encode(), digest_size=12)
    tensors = [data.train.clip, data.validation.clip, *data.video.values()]
    for part in (data.train, data.validation):
        n = len(part.clip)
        brain = part.brain.take(torch.arange(n)[:: max(1, n // _LOOKED_AT)])
        tensors += [brain.subject, brain.valid, brain.times, *brain.levels.values()]
    if data.text is not None:
        tensors += [*data.text.levels.values(), data.text.present]
    tensors += [torch.as_tensor(made_of[name]) for name in sorted(made_of)]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def train_ntcl(
    pairs: PairedDataset,
    out: Path,
    config: Train,
    seed: int,
    *,
    made_by: dict,
    geometry: dict[str, Any],
    memory_mb: float | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train stage 1 and write ``model.safetensors``, ``model.json``, ``history.tsv`` and ``delays.tsv``.

    Parameters
    ----------
    pairs : PairedDataset
        Only its train and validation splits are looked at.
    out : path
        Folder of the stage. A checkpoint left there by a killed run of the same configuration, seed and data is taken up.
    config : Train
    seed : int
    made_by : dict
        Provenance, kept in ``model.json``.
    geometry : dict
        `duration_s`, `step_s`, `surround_s`, `hrf`: how clips were cut (`pairs.build.read_geometry`), so that the trained model can
        cut new ones. A lag that was swept is taken from `pairs`.
    memory_mb : float, optional
        Megabytes that brain windows may take in memory (`data.to_tensors`); None: everything is to fit.
    processes : Processes
        Those that train together; the first writes.
    """
    out, stage = Path(out), config.ntcl
    pairs = blind(pairs)
    device = resolve_device(config, processes)
    scalers = processes.from_first(lambda: fit_scalers(pairs, stage.encoder))
    data = to_tensors(pairs, scalers, memory_mb)
    settings = config.model_dump(mode="json", exclude={"vq", "seeds", "memory_mb"})
    mark = fingerprint(settings, seed, data, scalers.arrays())
    with seeded(seed) as generator:
        network = NeuroAlign(architecture_of(pairs, scalers, stage))
        if data.surround is not None:
            scalers.surround = processes.from_first(lambda: _surround(network, data, stage, generator))
            data = data.with_surround(scalers.surround)
        strength = None
        if stage.encoder.linear_start:
            learn = stage.hrf_lr > 0
            strength = processes.from_first(
                lambda: start_linear(network, data, generator, learn_response=learn)[1]
            )
        candidates = text_candidates(strength)
        network, data = network.to(device), data.to(device)
        processes.like_first(network, generator)
        rates = dict.fromkeys(HRF_PARAMETERS, stage.hrf_lr) if stage.hrf_lr else {ADAPTATION: 0.0}
        groups = parameter_groups(network, stage, rates)
        trainer = Trainer(network, stage, groups, generator, out, mark, processes)

        # Epochs are compared at one weight of the text, chosen at the start; the final weights are chosen at the end.
        start = processes.from_first(lambda: start_weights(network, data, config.vq.near_steps, candidates))

        def load(rows: Tensor) -> Batch:
            return take_batch(data, data.train, rows, processes)

        def step(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            encoded = encode(network, batch, precision(config, device), processes)
            terms = ntcl_terms(network, encoded, batch, stage, config.text)
            return ntcl_loss(terms, stage, config.text), terms

        def validate(epoch: int) -> tuple[float, Iterable[tuple[str, str, float]]]:
            scores, _ = validation_scores(network, data, config.vq.near_steps, (start.text,))
            found = mean_retrieval(scores, start)
            rows = [
                ("validation", name.removeprefix("continuous_"), v)
                for name, v in found.items()
                if "fused" not in name
            ]
            rows += [("validation", name, v) for name, v in validation_terms(network, data, config).items()]
            return found["continuous_quality"], rows

        history = trainer.fit(len(data.train.clip), step, validate, load=load, ahead=not data.ready)
        if not processes.first:
            return
        scores, centres = validation_scores(network, data, config.vq.near_steps, candidates)
        weights = choose_weights(scores, config.vq.near_steps)
    first = next(iter(pairs.brain.values()))
    model = TrainedModel(
        network.cpu().eval(),
        scalers,
        weights,
        centres,
        first.unit_labels,
        geometry | ({"lags_s": first.lags_s} if first.lags_s else {}),
        {
            "stage": "ntcl",
            "seed": seed,
            "best_epoch": trainer.best_epoch,
            "validation": mean_retrieval(scores, weights),
            "config": config.model_dump(mode="json"),
            "learned_from": learned_from(pairs),
            "provenance": made_by,
        },
        {} if pairs.same_units else {subject: w.unit_labels for subject, w in pairs.brain.items()},
    )
    write_tsv(out / "history.tsv", history_table(history))
    write_tsv(out / "delays.tsv", delay_table(network))
    model.save(out)


def _surround(network: NeuroAlign, data: TrainingData, stage: Ntcl, generator: torch.Generator) -> float:
    wanted = stage.encoder.surround
    return choose_surround(network, data, generator) if wanted == "auto" else wanted


@torch.no_grad()
def validation_terms(network: NeuroAlign, data: TrainingData, config: Train) -> dict[str, float]:
    """The loss terms on (at most 512 windows of) the validation split, dropout off."""
    network.eval()
    batch = take_batch(data, data.validation, torch.arange(len(data.validation.clip))[:512])
    terms = ntcl_terms(network, encode(network, batch, nullcontext()), batch, config.ntcl, config.text)
    network.train()
    total = float(ntcl_loss(terms, config.ntcl, config.text))
    return {name: float(value) for name, value in terms.items()} | {"total": total}


@torch.no_grad()
def delay_table(network: NeuroAlign) -> pd.DataFrame:
    """Learned responses: subject ("all" for the group), level, delay_s (time to peak), dispersion_s.

    Without rows where the data came aligned and nothing was learned.
    """
    columns = ["subject", "level", "delay_s", "dispersion_s"]
    layer, architecture = network.haemodynamic, network.architecture
    if layer is None:
        return pd.DataFrame(columns=columns)
    shifts = {"all": 0.0, **dict(zip(architecture.subjects, layer.shifts().tolist(), strict=True))}
    delay, dispersion = layer.log_delay.exp().tolist(), layer.log_dispersion.exp().tolist()
    rows = [
        (subject, level, delay[i] + shift, dispersion[i])
        for subject, shift in shifts.items()
        for i, level in enumerate(architecture.brain_levels)
    ]
    return pd.DataFrame(rows, columns=columns)
