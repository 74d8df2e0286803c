r"""The haemodynamic response of each level, estimated forwards: from the film to the volumes.

Reading the brain at a lag and comparing it with the film confounds the delay with the width of what is read. Convolving the film with a
response and comparing that with the volumes does not: the delay that explains most is the delay. So the film is put
together again from the training clips, convolved with :math:`r(\cdot; p_l + \delta_s, \sigma_l)`, and

.. math:: \tfrac{N}{2} \sum_l \mathrm{tr}(C_{xx}^{-1} C_{xy} C_{yy}^{-1} C_{yx}) + \log \mathrm{prior}

is maximised over delays and shifts, with the shrunk covariances of N volumes x of a level and the film y at those
volumes. The prior is a time to peak of 5 ± 2 s and a shift of 0 ± 0.5 s. The dispersion stays canonical: smooth features hardly tell it from the delay, and a
fit of both together may end far from either.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from neuroalign.models.encoders.haemodynamic import (
    CANONICAL_DELAY_S,
    CONTEXT_STEPS,
    NOISE_LAGS,
    HaemodynamicAttention,
    response,
)
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import BrainInput
from neuroalign.training.canonical import correlation_sum

log = logging.getLogger(__name__)

_STEPS, _RATE = 80, 0.05
_SHRINKAGE = 0.3, 0.9
_MOST_VOLUMES = 6000
_MOST_FEATURES = 60
# A volume says something of the response only where the film is known this long before it.
_COVERED_S = 10.0
# Standard deviations of the prior: delays across cortex and people (Handwerker et al. 2004).
_DELAY_SD_S, _SHIFT_SD_S = 2.0, 0.5


@dataclass
class Films:
    """Stimuli put together again from clips: features on the clips' steps.

    Attributes
    ----------
    features : Tensor (steps of all films, features)
    times : Tensor (steps of all films,)
        Seconds from stimulus start, ascending within a film.
    first, last : dict of int to int
        Where a film's steps begin and end.
    spacing_s : float
    """

    features: Tensor
    times: Tensor
    first: dict[int, int]
    last: dict[int, int]
    spacing_s: float


def join_films(video: Tensor, clips: Tensor, content: Content, step_times: Tensor) -> Films:
    """Put films together from the clips at `clips` (int Tensor); steps that several clips hold are taken once.

    Parameters
    ----------
    video : Tensor (contents, steps, features)
    clips : int Tensor
        Rows of `video`.
    content : Content
        Of every row of `video`.
    step_times : Tensor (steps,)
    """
    spacing = float(step_times[1] - step_times[0]) if len(step_times) > 1 else 1.0
    features, times, first, last, count = [], [], {}, {}, 0
    for film in torch.unique(content.stimulus[clips]).tolist():
        own = clips[content.stimulus[clips] == film]
        at = (content.start_s[own][:, None] + step_times).flatten()
        order = torch.argsort(at, stable=True)
        at, rows = at[order], video[own].flatten(0, 1)[order]
        new = torch.ones(len(at), dtype=torch.bool)
        new[1:] = at[1:] - at[:-1] > spacing / 2
        first[film], count = count, count + int(new.sum())
        last[film] = count
        features.append(rows[new])
        times.append(at[new])
    return Films(torch.cat(features), torch.cat(times), first, last, spacing)


@dataclass
class Volumes:
    """Volumes and the film before them.

    Attributes
    ----------
    levels : dict of str to Tensor (n, units)
    subject : int Tensor (n,)
    lag_s : Tensor (n, k)
        Seconds from each known step of the film to the volume.
    film : Tensor (n, k, features)
        That step's features; zero where there is no film.
    """

    levels: dict[str, Tensor]
    subject: Tensor
    lag_s: Tensor
    film: Tensor


def volumes_of(
    brain: BrainInput, clip: Tensor, content: Content, films: Films, generator: torch.Generator
) -> Volumes:
    """Valid volumes of windows (at most some thousands) whose film is known for the seconds before them."""
    reach = round(24.0 / films.spacing_s)
    window, volume = torch.nonzero(brain.valid, as_tuple=True)
    order = torch.randperm(len(window), generator=generator)[: 2 * _MOST_VOLUMES]
    window, volume = window[order], volume[order]
    at = content.start_s[clip[window]] + brain.times[window, volume]
    index = torch.full((len(window), reach), -1)
    covered = torch.zeros(len(window), dtype=torch.bool)
    for film, begin in films.first.items():
        here = torch.nonzero(content.stimulus[clip[window]] == film)[:, 0]
        times = films.times[begin : films.last[film]]
        end = torch.searchsorted(times, at[here].contiguous(), right=True)
        back = end[:, None] - 1 - torch.arange(reach)
        index[here] = torch.where(back >= 0, back + begin, -1)
        # Steps that should be there: the film's, in the seconds before the volume.
        early = (at[here] - _COVERED_S).clamp(min=float(times[0]) - films.spacing_s / 2)
        late = torch.minimum(at[here], times[-1] + films.spacing_s / 2)
        wanted = ((late - early) / films.spacing_s).clamp(min=0)
        there = end - torch.searchsorted(times, early.contiguous())
        covered[here] = (there >= wanted - 1.5) & (there > 0)
    keep = torch.nonzero(covered)[:, 0][:_MOST_VOLUMES]
    window, volume, index, at = window[keep], volume[keep], index[keep], at[keep]
    known = index >= 0
    lag = torch.where(known, at[:, None] - films.times[index.clamp(min=0)], -1.0)
    film = films.features[index.clamp(min=0)] * (known & (lag < 24.0))[..., None]
    levels = {name: x[window, volume] for name, x in brain.levels.items()}
    return Volumes(levels, brain.subject[window], lag, film)


def fit_response(layer: HaemodynamicAttention, volumes: Volumes) -> None:
    """Set the delays and shifts of `layer` to the most probable ones (see the module)."""
    optimiser = torch.optim.Adam([layer.log_delay, layer.subject_shift], lr=_RATE)
    for step in range(_STEPS):
        optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        optimiser.zero_grad()
        delays, dispersions = layer.delays(volumes.subject), layer.log_dispersion.detach().exp()
        explained = 0.0
        for number, x in enumerate(volumes.levels.values()):
            evoked = response(volumes.lag_s, delays[:, number, None], dispersions[number])
            seen = torch.einsum("vk,vkf->vf", evoked * (volumes.lag_s > 0), volumes.film)
            explained = explained + correlation_sum(x, seen, *_SHRINKAGE)
        prior = ((layer.log_delay.exp() - CANONICAL_DELAY_S) / _DELAY_SD_S).square().sum()
        prior = prior + (layer.shifts() / _SHIFT_SD_S).square().sum()
        (0.5 * prior - 0.5 * len(volumes.subject) * explained).backward()
        optimiser.step()
    log.info("response: time to peak %s s", [round(float(d), 2) for d in layer.log_delay.detach().exp()])


def leading_features(films: Films) -> Films:
    """The films' leading principal components, where there are more features than the fit of a response needs."""
    if films.features.shape[1] <= _MOST_FEATURES:
        return films
    centred = films.features - films.features.mean(0)
    vectors = torch.linalg.eigh((centred.T @ centred).double())[1][:, -_MOST_FEATURES:].float()
    return Films(centred @ vectors, films.times, films.first, films.last, films.spacing_s)


def film_around(films: Films, steps: int) -> Tensor:
    r"""What the steps of a clip say of the film around it: a map (steps around, steps) for `HaemodynamicAttention.context`.

    The least-squares prediction :math:`R\, G^{-1}` from the films' mean autocorrelation, in which steps that no film has count as
    unrelated: clips that are films of their own say nothing of what surrounds them.
    """
    x = films.features - films.features.mean(0)
    total, by_lag = x.square().sum(), []
    position = torch.round(films.times / films.spacing_s).long()
    for lag in range(steps + CONTEXT_STEPS):
        shared = x.new_zeros(())
        for film, begin in films.first.items():
            own, at = x[begin : films.last[film]], position[begin : films.last[film]]
            place = torch.searchsorted(at, at + lag).clamp(max=len(at) - 1)
            there = at[place] == at + lag
            shared = shared + (own[there] * own[place[there]]).sum()
        by_lag.append(shared / total.clamp(min=1e-12))
    correlation = torch.stack(by_lag)
    around = torch.arange(-CONTEXT_STEPS, steps + CONTEXT_STEPS)
    clip = torch.arange(steps)
    gram = correlation[(clip[:, None] - clip).abs()] + 0.05 * torch.eye(steps)
    cross = correlation[(around[:, None] - clip).abs().clamp(max=len(correlation) - 1)]
    found = torch.linalg.solve(gram, cross.T).T
    # The clip's own steps are known.
    found[CONTEXT_STEPS : CONTEXT_STEPS + steps] = torch.eye(steps)
    return found


@torch.no_grad()
def noise_autocorrelation(brain: BrainInput) -> tuple[Tensor, float]:
    """Autocorrelation of the volumes of windows, mean over units: (levels, `NOISE_LAGS`), and the repetition time (s)."""
    both = brain.valid[:, 1:] & brain.valid[:, :-1]
    gaps = (brain.times[:, 1:] - brain.times[:, :-1])[both]
    spacing = float(gaps.median()) if len(gaps) else 1.0
    lag = torch.round((brain.times[:, :, None] - brain.times[:, None, :]).abs() / max(spacing, 1e-3)).long()
    pairs = brain.valid[:, :, None] & brain.valid[:, None, :]
    rows = []
    for x in brain.levels.values():
        clean = torch.where(brain.valid[..., None], x, 0.0)
        products = clean @ clean.mT / x.shape[-1]
        mean = [
            products[pairs & (lag == k)].mean() if (pairs & (lag == k)).any() else x.new_zeros(())
            for k in range(NOISE_LAGS)
        ]
        row = torch.stack(mean)
        rows.append(row / row[0].clamp(min=1e-12))
    return torch.stack(rows), spacing
