"""Captions on the steps of clips: the text windows of the paired dataset.

Captions come embedded, on a grid of their own and with gaps (docs/formats.md, "Captions"). A step without a caption stays
empty: nothing is filled in, and whoever reads the windows looks at `has_text`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from neuroalign.config.fmri import Hrf
from neuroalign.errors import UserError
from neuroalign.pairs.store import VideoWindows
from neuroalign.pairs.windows import bracket, step_times
from neuroalign.text.captions import Captions, read_captions

log = logging.getLogger(__name__)


def text_steps(
    captions: Captions, start_s: np.ndarray | float, duration_s: float, step_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the text windows of clips out of the captions of a stimulus.

    A step is the mean of the captions centred inside it; where none is (a coarse grid), the linear interpolation of the
    two captions around its centre; where only one of these is there, that one if its window reaches the step's centre.

    Parameters
    ----------
    captions : Captions
    start_s : array of shape (n,) or float
        Clip starts in seconds from stimulus start.
    duration_s, step_s : float

    Returns
    -------
    data : float32 array of shape (n, steps, dim)
        Zeros where there is no text.
    present : bool array of shape (n, steps)
    """
    starts = np.atleast_1d(np.asarray(start_s, float))
    centres = step_times(duration_s, step_s)
    half = duration_s / len(centres) / 2
    targets = starts[:, None] + centres
    times, data, has_text = captions.times, captions.features, captions.has_text
    stride = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    reach = max(float(captions.attributes.get("window_s") or 0.0), stride) / 2 + 1e-6
    begin = np.searchsorted(times, targets - half - 1e-6)
    end = np.searchsorted(times, targets + half - 1e-6)
    total = np.concatenate([np.zeros((1, data.shape[1])), np.cumsum(data, 0, dtype=np.float64)])
    count = np.concatenate([[0], np.cumsum(has_text)])
    inside = count[end] - count[begin]
    mean = (total[end] - total[begin]) / np.maximum(inside, 1)[..., None]

    left, right, weight = bracket(times, targets)
    within = (targets >= times[0] - 1e-6) & (targets <= times[-1] + 1e-6)
    both = has_text[left] & has_text[right] & within
    nearest = np.where(weight < 0.5, left, right)
    reached = has_text[nearest] & (np.abs(times[nearest] - targets) <= reach)
    line = data[left] * (1 - weight)[..., None] + data[right] * weight[..., None]
    around = np.where(both[..., None], line, data[nearest])
    present = (inside > 0) | both | reached
    found = np.where((inside > 0)[..., None], mean, around)
    return np.where(present[..., None], found, 0.0).astype(np.float32), present


def add_text(
    video: VideoWindows,
    table: pd.DataFrame,
    caption_files: Mapping[str, Path],
    duration_s: float,
    step_s: float,
    hrf: Hrf,
    convolved: Collection[str] = (),
) -> VideoWindows:
    """The windows of clip contents with their captions.

    Parameters
    ----------
    video : VideoWindows
    table : DataFrame
        The clip table, which knows where in which stimulus every content lies.
    caption_files : mapping of stimulus to path
        A stimulus without a file has no text.
    duration_s, step_s : float
    hrf : Hrf
        Says whether features are expected to be HRF-convolved, as for the video.
    convolved : collection of str, optional
        Stimuli whose video features are HRF-convolved.

    Raises
    ------
    UserError
        If no clip has a caption, widths differ between stimuli, or convolution and `hrf.method` or the video contradict each
        other.
    """
    about = table.drop_duplicates("clip_id").set_index("clip_id").loc[video.clip_ids]
    stimuli, starts = about["stimulus"].to_numpy(str), about["start_s"].to_numpy(float)
    text: np.ndarray | None = None
    present = np.zeros((len(starts), len(video.step_times)), bool)
    for stimulus in np.unique(stimuli):
        if stimulus not in caption_files:
            continue
        captions = read_captions(caption_files[stimulus])
        _check_convolution(stimulus, captions, hrf, stimulus in convolved)
        rows = np.flatnonzero(stimuli == stimulus)
        data, present[rows] = text_steps(captions, starts[rows], duration_s, step_s)
        if text is None:
            text = np.zeros((*present.shape, data.shape[2]), np.float32)
        if text.shape[2] != data.shape[2]:
            raise UserError(
                f"The captions of '{stimulus}' are embedded in {data.shape[2]} dimensions, those before it in "
                f"{text.shape[2]}: embed all with one model."
            )
        text[rows] = data
    if text is None or not present.any():
        raise UserError("No clip has a caption: check text.source and the times of the captions.")
    log.info("%.0f %% of the clips' steps have a caption", 100 * present.mean())
    return replace(video, text=text, has_text=present)


def captioned_share(
    video: VideoWindows, table: pd.DataFrame, splits: Collection[str]
) -> dict[str, dict[str, float]]:
    """Which share of the steps of the clips of every part has a caption, by column of the clip table and part.

    Warns of parts for validation or test without any: captions are then chosen, or judged, by nothing.
    """
    found: dict[str, dict[str, float]] = {}
    for column in splits:
        clips = table.drop_duplicates(["clip_id", column])
        for part, rows in clips.groupby(column):
            share = float(video.has_text[video.rows_of(rows["clip_id"])].mean())
            found.setdefault(column, {})[str(part)] = share
            if part in ("validation", "test") and not share:
                log.warning(
                    "No clip of %s (%s) has a caption: what captions bring cannot be %s there",
                    *(part, column, "chosen" if part == "validation" else "measured"),
                )
    return found


def _check_convolution(stimulus: str, captions: Captions, hrf: Hrf, video_convolved: bool) -> None:
    convolved = bool(captions.attributes.get("hrf_convolved", False))
    if convolved and hrf.method != "none":
        raise UserError(
            f"The captions of '{stimulus}' are already HRF-convolved, but hrf.method is '{hrf.method}': "
            "the delay would count twice; set hrf.method to none."
        )
    if hrf.method == "none" and not convolved and video_convolved:
        raise UserError(
            f"The features are HRF-convolved and hrf.method is 'none', but the captions of '{stimulus}' are not convolved: "
            "they would lie seconds before the brain that they are paired with; bring features that are not convolved with "
            "another hrf.method, or set text.source to none."
        )
    if hrf.method == "none" and not convolved:
        log.warning("hrf.method is none, but the captions of '%s' are not HRF-convolved", stimulus)
