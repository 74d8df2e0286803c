"""Adding a person to a trained model: a place for their parameters, in which nothing is learned yet.

What is added behaves as the model does for somebody it does not know, bit for bit; nothing changes for anybody else. How the
parameters are set is in `training.adapt`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neuroalign.errors import UserError
from neuroalign.models.encoders.haemodynamic import HaemodynamicAttention
from neuroalign.models.model import FMRI, NeuroAlign
from neuroalign.models.scaling import Scaler, Scalers
from neuroalign.models.trained import TrainedModel

RANK = 8
"""Rank of the subject term of a model that was trained without one."""


def with_subject(
    model: TrainedModel,
    subject: str,
    scalers: Mapping[str, Scaler],
    unit_labels: Mapping[str, Sequence[str]] | None = None,
) -> TrainedModel:
    """A copy of a model that has parameters for one more subject.

    Parameters
    ----------
    model : TrainedModel
        Left as it is.
    subject : str
        Label without prefix.
    scalers : mapping of level to Scaler
        Of the subject's units.
    unit_labels : mapping of level to list of str, optional
        Of the subject's units, for a model of voxels.

    Returns
    -------
    TrainedModel
        Parcels: the low-rank term of the subject is zero, the delay shift too. Voxels: the map is zero.

    Raises
    ------
    UserError
        If the model knows the subject.
    """
    old = model.network.architecture
    if subject in old.subjects:
        raise UserError(
            f"The model knows subject '{subject}' already; adapt the model that it was made from, or choose another label."
        )
    own = {(subject, level): scaler for level, scaler in scalers.items()}
    grown = Scalers({**model.scalers.brain, **own}, model.scalers.video, model.scalers.text)
    rank = old.encoder["subject_rank"] or RANK
    architecture = replace(
        old,
        subjects=[*old.subjects, subject],
        adapted=old.adapted + 1,
        brain_levels={level: grown.brain_width(level) for level in old.brain_levels},
        encoder={**old.encoder, "subject_rank": rank},
    )
    with torch.random.fork_rng(devices=[]):
        network = NeuroAlign(architecture)
    device = model.network.step_times.device
    before = model.network.state_dict()
    network.load_state_dict(
        {name: _extended(before.get(name), value) for name, value in network.state_dict().items()}
    )
    layer = network.haemodynamic
    if layer is not None:
        with torch.no_grad():
            layer.subject_shift[-1] = layer.subject_shift[: layer.trained_subjects].mean()
    units = dict(model.subject_units)
    if unit_labels is not None and not old.shared_units:
        units[subject] = {level: list(labels) for level, labels in unit_labels.items()}
    return replace(
        model,
        network=network.to(device).eval(),
        scalers=grown,
        meta=copy.deepcopy(model.meta),
        subject_units=units,
    )


def _extended(old: Tensor | None, like: Tensor) -> Tensor:
    """A tensor in the shape of another: zeros beyond what there was."""
    if old is None:
        return torch.zeros_like(like)
    if old.shape == like.shape:
        return old.to(like.device)
    out = torch.zeros_like(like)
    out[tuple(slice(size) for size in old.shape)] = old.to(like.device)
    return out


@torch.no_grad()
def set_map(network: NeuroAlign, maps: Sequence[Tensor], samples: Sequence[Tensor]) -> None:
    """Give the last subject its part of the brain map.

    Parameters
    ----------
    network : NeuroAlign
        Of `with_subject`.
    maps : sequence of Tensor (inputs, dim)
        Per level: for parcels what is added to the shared map, of which the low-rank term holds the leading directions; for voxels
        the whole map.
    samples : sequence of Tensor (n, inputs)
        Inputs of each level: directions are ranked by what they explain of the maps' outputs here.
    """
    for patch, full, x in zip(network.encoders[FMRI].patches, maps, samples, strict=True):
        if not patch.shared:
            patch.weight[-1] = full
            continue
        patch.down[-1], patch.up[-1] = 0.0, 0.0
        rank = min(patch.rank, *full.shape)
        # Reduced-rank regression: the best rank-r approximation of the fitted values (Izenman 1975).
        _, _, vt = torch.linalg.svd((x @ full).double(), full_matrices=False)
        vt = vt[:rank].to(full.dtype)
        patch.down[-1, :, : len(vt)] = full @ vt.T
        patch.up[-1, : len(vt)] = vt


@torch.no_grad()
def set_shift(network: NeuroAlign, shift_s: float) -> None:
    """Set the delay shift of the last subject, in seconds against the group."""
    layer = network.haemodynamic
    if layer is not None:
        layer.subject_shift[-1] = layer.subject_shift[: layer.trained_subjects].mean() + shift_s


def shift_of_last(layer: HaemodynamicAttention) -> float:
    """Delay shift of the last subject in seconds."""
    return float(layer.shifts()[-1])
