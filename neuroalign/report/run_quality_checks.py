"""The numbers of one run with a remark each, and where the limits come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neuroalign.fmri.qc import RunQc
from neuroalign.report.run_quality_images import Region, RunImages
from neuroalign.report.style import Check, Table, listed, number, percent, plural

# What is good up to the first number and bad beyond the second; in between it is worth a look.
MEAN_FD_MM = (0.2, 0.5)
LARGEST_FD_MM = 5.0
CENSORED = (0.2, 0.5)
TSNR = (40.0, 20.0)
DICE = (0.9, 0.8)
_HALF = 0.5
_FEW_VOXELS = 5

_SOURCES = [
    [
        "mean FD",
        f"good up to {MEAN_FD_MM[0]:g} mm, bad beyond {MEAN_FD_MM[1]:g} mm or where one step exceeds {LARGEST_FD_MM:g} mm",
        "Power et al. 2012 and 2014 (NeuroImage 59 and 84) censor volumes at 0.5 and 0.2 mm, which is applied to the mean "
        "here; 5 mm: Parkes et al. 2018 (NeuroImage 171)",
    ],
    [
        "censored volumes",
        f"good up to {percent(CENSORED[0], 0)}, bad beyond {percent(CENSORED[1], 0)}",
        "Parkes et al. 2018 leave out runs with more than 20 % of volumes in motion",
    ],
    [
        "median temporal SNR",
        f"good from {TSNR[0]:g}, bad below {TSNR[1]:g}",
        "Murphy et al. 2007 (NeuroImage 34): about 40 is the least for detecting effects reliably in usual scan times. It "
        "falls with the size of the voxels: the limits are for about 3 mm",
    ],
    [
        "overlap with the template",
        f"Dice coefficient of the brain masks: good from {DICE[0]:g}, bad below {DICE[1]:g}",
        "a rule of thumb of this project; a field of view without the whole brain lowers it",
    ],
    [
        "regions",
        "bad where a region has no voxel in the brain mask; a look where half of one lies outside, or it has fewer than "
        f"{_FEW_VOXELS} voxels",
        "a rule of thumb of this project",
    ],
]


@dataclass
class RunNumbers:
    """What the checks look at.

    Attributes
    ----------
    tr : float
        Repetition time, seconds.
    start_s : float or None
        ``StartTime`` of the sidecar, seconds.
    slice_timing : bool or None
        Whether slice timing was corrected, as the sidecar says.
    """

    tr: float
    start_s: float | None = None
    slice_timing: bool | None = None


def checks(numbers: RunNumbers, quality: RunQc, images: RunImages | None) -> list[Check]:
    """All checks that this run has data for."""
    made = [_length(numbers, quality), _clock(numbers, quality), _censored(quality)]
    if quality.fd is not None and np.isfinite(quality.fd).any():
        made.append(_motion(np.asarray(quality.fd, float)))
    if np.isfinite(quality.tsnr_median):
        made.append(_tsnr(quality.tsnr_median))
    if images is not None and np.isfinite(images.dice):
        made.append(_overlap(images.dice))
    if images is not None and images.regions:
        made.append(_regions(images.regions))
    return made


def verdict(made: list[Check]) -> str:
    """The page's first sentence."""
    bad, look = (
        # "temporal SNR", not "temporal snr".
        [c.label[0].lower() + c.label[1:] for c in made if c.state == state]
        for state in ("bad", "look")
    )
    if bad:
        more = f"; have a look at {listed(look)}, too" if look else ""
        return f"This run has a problem: {listed(bad)}{more}."
    if look:
        return f"Have a look at {listed(look)}; the other numbers are as they should be."
    return "The numbers are as they should be; the pictures below are what decides."


def limits_table() -> Table:
    """The limits, with their sources."""
    return Table(
        "Limits of the marks, and where they come from",
        ["number", "limits", "source"],
        [list(r) for r in _SOURCES],
        opened=True,
    )


def _state(value: float, good: float, bad: float) -> str:
    """`good`, `look` or `bad`; larger is worse where `bad` is the larger limit."""
    if bad < good:
        value, good, bad = -value, -good, -bad
    return "good" if value <= good else "look" if value <= bad else "bad"


def _length(numbers: RunNumbers, quality: RunQc) -> Check:
    volumes = len(quality.keep)
    return Check(
        "Length", f"{volumes * numbers.tr / 60:.1f} min", f"{volumes} volumes, one every {numbers.tr:g} s"
    )


def _clock(numbers: RunNumbers, quality: RunQc) -> Check:
    corrected = {
        True: "slice timing corrected",
        False: "slice timing not corrected",
        None: "slice timing not said",
    }
    start = "no StartTime" if numbers.start_s is None else f"StartTime {numbers.start_s:.3g} s"
    return Check(
        "First volume",
        f"{float(quality.times[0]):.2f} s",
        f"its middle; {start}, {corrected[numbers.slice_timing]}",
    )


def _censored(quality: RunQc) -> Check:
    share = 1 - float(np.mean(quality.keep))
    count = int((~np.asarray(quality.keep, bool)).sum())
    return Check(
        "Censored",
        percent(share),
        f"{plural(count, 'volume')} of {len(quality.keep)}",
        _state(share, *CENSORED),
    )


def _motion(fd: np.ndarray) -> Check:
    mean, largest = float(np.nanmean(fd)), float(np.nanmax(fd))
    state = "bad" if largest > LARGEST_FD_MM else _state(mean, *MEAN_FD_MM)
    words = {
        "good": "a calm head",
        "look": "a restless head",
        "bad": "much motion: consider leaving the run out",
    }
    return Check("Head motion", f"{mean:.2f} mm", f"mean FD; largest {largest:.2f} mm: {words[state]}", state)


def _tsnr(median: float) -> Check:
    state = _state(median, *TSNR)
    words = {"good": "usual", "look": "low", "bad": "very low: little but noise"}
    return Check("Temporal SNR", number(median, 0), f"median over the brain: {words[state]}", state)


def _overlap(dice: float) -> Check:
    state = _state(dice, *DICE)
    words = {
        "good": "brain and template agree",
        "look": "see the outlines below",
        "bad": "alignment has failed, or part of the brain is not in view",
    }
    return Check("Template overlap", number(dice), f"Dice: {words[state]}", state)


def _regions(regions: list[Region]) -> Check:
    lost = [r.label for r in regions if r.inside == 0]
    part = [r.label for r in regions if 0 < r.inside < _HALF * r.whole]
    small = [r.label for r in regions if 0 < r.inside < _FEW_VOXELS and r.label not in part]
    smallest = min(regions, key=lambda r: r.inside)
    size = f"smallest {smallest.label} ({plural(smallest.inside, 'voxel')})"
    have = f"{len(regions) - len(lost)} of {len(regions)}"
    if lost:
        return Check("Regions", have, f"have voxels; without any: {listed(lost, 4)}", "bad")
    if part:
        return Check(
            "Regions", have, f"have voxels; half or more outside the mask: {listed(part, 4)}", "look"
        )
    return Check("Regions", have, f"have voxels; {size}", "look" if small else "good")
