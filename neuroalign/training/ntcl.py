r"""Stage 1: neural-temporal contrastive learning.

.. math:: L = L_{global} + \lambda_{level} L_{level} + \lambda_{time} L_{time} + \lambda_{pred} L_{pred}
          + \lambda_{shift} \langle \delta_s^2 \rangle
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from neuroalign.config.train import Ntcl, Train
from neuroalign.io import write_tsv
from neuroalign.models.losses.contrast import centred, info_nce, level_info_nce, soft_targets
from neuroalign.models.losses.prediction import prediction_loss
from neuroalign.models.losses.temporal import time_contrast
from neuroalign.models.model import FMRI, VIDEO, Architecture, Encoded, NeuroAlign
from neuroalign.models.scaling import Scalers
from neuroalign.models.score import Weights
from neuroalign.models.trained import TrainedModel
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
from neuroalign.training.linear_start import start_linear
from neuroalign.training.loop import Trainer, history_table, parameter_groups
from neuroalign.training.seeds import seeded
from neuroalign.training.validation import (
    choose_weights,
    mean_retrieval,
    validation_scores,
)

log = logging.getLogger(__name__)

HRF_PARAMETERS = (
    "encoders.fmri.resample.log_delay",
    "encoders.fmri.resample.log_dispersion",
    "encoders.fmri.resample.subject_shift",
)


def ntcl_terms(
    network: NeuroAlign, brain: Encoded, video: Encoded, batch: Batch, config: Ntcl
) -> dict[str, Tensor]:
    """The terms of stage 1 on one batch, unweighted; a term with weight 0 is absent.

    Parameters
    ----------
    network : NeuroAlign
    brain, video : Encoded
        Of the n windows and the m distinct clips of `batch`.
    batch : Batch
    config : Ntcl
    """
    weights = config.terms
    targets = soft_targets(batch.rows, batch.columns, config.soften_s)
    terms = {
        "global": info_nce(centred(brain.pooled), centred(video.pooled), targets, network.scale("global"))
    }
    if weights.level:
        terms["level"] = level_info_nce(
            centred(brain.tokens), centred(video.tokens), targets, network.scale("level")
        )
    several_steps = brain.steps.shape[1] > 1
    if weights.time and several_steps:
        terms["time"] = time_contrast(
            centred(brain.steps),
            centred(video.steps),
            batch.rows,
            batch.columns,
            network.step_times,
            network.scale("time"),
            config.neighbour_s,
        )
    if weights.pred and several_steps:
        # Not centred over the batch: a mean over clips would let later steps into what predicts them.
        terms["pred"] = prediction_loss(
            network.predictors[FMRI](brain.steps),
            network.predictors[VIDEO](video.steps),
            brain.steps,
            video.steps,
            targets,
            network.scale("pred"),
        )
    if weights.shift and network.haemodynamic is not None:
        terms["shift"] = network.haemodynamic.penalty()
    return terms


def ntcl_loss(terms: dict[str, Tensor], config: Ntcl) -> Tensor:
    """The weighted sum of `ntcl_terms`."""
    return sum(value * getattr(config.terms, name, 1.0) for name, value in terms.items())


def encode(network: NeuroAlign, batch: Batch, context) -> tuple[Encoded, Encoded]:
    """Both sides of a batch, in float32 whatever the precision of the forward pass."""
    with context:
        brain, video = network.encode_fmri(batch.brain), network.encode_video(batch.video)
    return tuple(Encoded(e.tokens.float(), e.steps.float(), e.pooled.float()) for e in (brain, video))


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
    )


def fingerprint(config: Any, seed: int, data: TrainingData) -> str:
    """Identifies what a checkpoint may be resumed with."""
    digest = hashlib.blake2b(json.dumps([config, seed], sort_keys=True).encode(), digest_size=12)
    for tensor in (
        data.train.clip,
        data.validation.clip,
        *data.train.brain.levels.values(),
        *data.video.values(),
    ):
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
        `duration_s`, `step_s`, `hrf`: how clips were cut (`pairs.build.read_geometry`), so that the trained model can
        cut new ones. A lag that was swept is taken from `pairs`.
    """
    out, stage = Path(out), config.ntcl
    device = resolve_device(config)
    scalers = fit_scalers(pairs, stage.encoder)
    data = to_tensors(pairs, scalers)
    mark = fingerprint(config.model_dump(mode="json", exclude={"vq", "seeds"}), seed, data)
    with seeded(seed) as generator:
        network = NeuroAlign(architecture_of(pairs, scalers, stage))
        if stage.encoder.linear_start:
            start_linear(network, data, generator)
        network, data = network.to(device), data.to(device)
        rates = dict.fromkeys(HRF_PARAMETERS, stage.hrf_lr)
        trainer = Trainer(network, stage, parameter_groups(network, stage, rates), generator, out, mark)

        def step(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            batch = take_batch(data, data.train, rows.to(device))
            brain, video = encode(network, batch, precision(config, device))
            terms = ntcl_terms(network, brain, video, batch, stage)
            return ntcl_loss(terms, stage), terms

        def validate(epoch: int) -> tuple[float, Iterable[tuple[str, str, float]]]:
            scores, _ = validation_scores(network, data, config.vq.near_steps)
            found = mean_retrieval(scores, Weights(near_steps=config.vq.near_steps))
            rows = [
                ("validation", name.removeprefix("continuous_"), v)
                for name, v in found.items()
                if "fused" not in name
            ]
            rows += [("validation", name, v) for name, v in validation_terms(network, data, stage).items()]
            return found["continuous_quality"], rows

        history = trainer.fit(len(data.train.clip), step, validate)
        scores, centres = validation_scores(network, data, config.vq.near_steps)
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
            "provenance": made_by,
        },
        {} if pairs.same_units else {subject: w.unit_labels for subject, w in pairs.brain.items()},
    )
    write_tsv(out / "history.tsv", history_table(history))
    write_tsv(out / "delays.tsv", delay_table(network))
    model.save(out)


@torch.no_grad()
def validation_terms(network: NeuroAlign, data: TrainingData, config: Ntcl) -> dict[str, float]:
    """The loss terms on (at most 512 windows of) the validation split, dropout off."""
    network.eval()
    batch = take_batch(data, data.validation, torch.arange(len(data.validation.clip))[:512])
    terms = ntcl_terms(
        network, network.encode_fmri(batch.brain), network.encode_video(batch.video), batch, config
    )
    network.train()
    return {name: float(value) for name, value in terms.items()} | {"total": float(ntcl_loss(terms, config))}


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
