"""What the brain does when it takes a code: the activity of every region while a brain token takes it, against all others."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from neuroalign.models.model import FMRI, NeuroAlign
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.regions import units_by_region
from neuroalign.pairs.store import BrainWindows, PairedDataset

COLUMNS = ("level", "depth", "code", "region", "region_level", "mean_z", "others_z", "effect", "tokens")


@dataclass
class _Sums:
    """Sums over tokens: of a region's activity by code, of its square, and of tokens by code."""

    by_code: dict[tuple[int, str, str], np.ndarray] = field(default_factory=dict)
    square: dict[tuple[int, str, str], float] = field(default_factory=dict)
    tokens: dict[tuple[int, str, str], np.ndarray] = field(default_factory=dict)

    def add(self, key: tuple[int, str, str], codes: np.ndarray, activity: np.ndarray, size: int) -> None:
        """Add the tokens of one subject: codes (n, steps) and activity (n, steps)."""
        taken, x = codes.ravel(), activity.ravel().astype(np.float64)
        self.by_code[key] = self.by_code.get(key, 0) + np.bincount(taken, x, minlength=size)
        self.tokens[key] = self.tokens.get(key, 0) + np.bincount(taken, minlength=size)
        self.square[key] = self.square.get(key, 0.0) + float(x @ x)


def code_regions(model: TrainedModel, pairs: PairedDataset, codes: int = 12) -> pd.DataFrame:
    """Mean activity of every region while the brain's tokens take the most used codes of the first depth.

    The activity that belongs to a token is the region's signal, z-scored as the model does (per subject, over training), averaged
    over the volumes that the token reads: with the learned response at the region's own level, or the nearest volume where the
    delay is dealt with. It describes; tokens that follow each other are not independent.

    Parameters
    ----------
    model : TrainedModel
        Of stage 2.
    pairs : PairedDataset
        Its train and validation splits are looked at.
    codes : int
        Most codes per level, by the brain's own use of them.

    Returns
    -------
    DataFrame
        `level, depth, code, region, region_level, mean_z, others_z, effect, tokens`: the mean while the code is taken and
        over all other tokens of the level; `effect` is their difference in standard deviations of the region's activity over all
        tokens; `tokens` is how many brain tokens take the code. Regions of all levels are listed, those of the code's own
        first.
    """
    size = model.network.architecture.vq["codes"]
    levels = list(model.network.architecture.brain_levels)
    sums = _Sums()
    for subject in pairs.subjects:
        for split in ("train", "validation"):
            windows, rows = pairs.of(subject, split)
            if len(rows):
                _add_subject(sums, model, windows, subject, levels, size)
    records = []
    for number, level in enumerate(levels):
        keys = [key for key in sums.by_code if key[0] == number]
        keys.sort(key=lambda key: key[1] != level)
        used = next(iter(sums.tokens[key] for key in keys), np.zeros(size))
        for code in [c for c in np.argsort(-used, kind="stable")[:codes] if used[c]]:
            for key in keys:
                records.append((level, 1, int(code), key[2], key[1], *_contrast(sums, key, code)))
    return pd.DataFrame(records, columns=list(COLUMNS))


def _contrast(sums: _Sums, key: tuple[int, str, str], code: int) -> tuple[float, float, float, int]:
    total, tokens = sums.by_code[key], sums.tokens[key]
    n, everyone = int(tokens[code]), int(tokens.sum())
    mean = total[code] / n if n else float("nan")
    others = (total.sum() - total[code]) / (everyone - n) if everyone > n else float("nan")
    variance = sums.square[key] / everyone - (total.sum() / everyone) ** 2
    effect = (mean - others) / np.sqrt(variance) if variance > 1e-12 else float("nan")
    return float(mean), float(others), float(effect), n


def _add_subject(
    sums: _Sums, model: TrainedModel, windows: BrainWindows, subject: str, levels: list[str], size: int
) -> None:
    index = model.embed_fmri(windows, subject).index
    brain = model.brain_input(windows, subject)
    heard = heard_volumes(model.network, brain.times, brain.valid, brain.subject)
    for place, region_level in enumerate(levels):
        scaler = model.scalers.brain.get((subject, region_level)) or model.scalers.brain[("", region_level)]
        if windows.levels[region_level].shape[-1] != len(scaler.mean):
            # Fewer units than the windows hold were read: the others have no scale.
            continue
        z = (
            np.where(windows.valid[..., None], windows.levels[region_level], scaler.mean) - scaler.mean
        ) / scaler.std
        activity = np.einsum("ntv,nvu->ntu", heard[..., place], z, optimize=True)
        for region, units in units_by_region(windows.unit_labels[region_level]).items():
            mean = activity[..., units].mean(axis=-1)
            for level in range(len(levels)):
                sums.add((level, region_level, region), index[:, :, level, 0], mean, size)


@torch.no_grad()
def heard_volumes(
    network: NeuroAlign, times: torch.Tensor, valid: torch.Tensor, subject: torch.Tensor
) -> np.ndarray:
    """How much every step hears of every volume: array (n, steps, volumes, levels) that sums to 1 over valid volumes.

    With a learned response the response alone: neither what the content of volumes adds to the attention nor the weighing by the
    noise, which may be negative.
    """
    layer, steps = network.haemodynamic, network.step_times
    n, volumes = times.shape
    if layer is None:
        one_each = torch.eye(volumes).expand(n, -1, -1)[:, :, None, :]
        found = network.encoders[FMRI].resample(one_each, times, valid, steps, subject)
        levels = len(network.architecture.brain_levels)
        return found[:, :, 0].numpy()[..., None].repeat(levels, axis=-1)
    evoked = layer.design(times, valid, steps, subject).clamp(min=0)
    shares = evoked / evoked.sum(dim=2, keepdim=True).clamp(min=1e-9)
    return shares.permute(0, 3, 2, 1).numpy()
