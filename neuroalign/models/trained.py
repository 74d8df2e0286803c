"""Trained models: on disk (``model.safetensors`` and ``model.json``) and ready for new data.

`load` is the public entry (`neuroalign.load`): raw ROI series or cut windows in, embeddings and scores out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from neuroalign.errors import UserError, nearest
from neuroalign.fmri.series import RoiSeries
from neuroalign.io import atomic_path, read_json, write_json
from neuroalign.models.embed import embed_brain, embed_clips, with_text
from neuroalign.models.model import Architecture, BrainInput, NeuroAlign, TextInput
from neuroalign.models.scaling import Scalers
from neuroalign.models.score import REPORTED, Embedding, Weights, fuse, similarity_parts
from neuroalign.pairs.store import BrainWindows, VideoWindows
from neuroalign.text.captions import Captions
from neuroalign.video import shards

Brain = TypeVar("Brain", BrainWindows, RoiSeries)
FORMAT = 2
WEIGHTS_FILE, META_FILE = "model.safetensors", "model.json"


@dataclass
class TrainedModel:
    """A network with everything needed to use it on new data.

    Attributes
    ----------
    network : NeuroAlign
    scalers : Scalers
    weights : Weights
        Of the fused score.
    centres : dict of str to dict of str to array
        Mean training embeddings, by ``brain`` and ``video`` (and ``text``) and by part.
    unit_labels : dict of str to list of str
        Labels of the units of each brain level (of the first subject, where they differ).
    geometry : dict
        `duration_s`, `step_s` and `hrf` (as the configuration section): how clips are cut; with a swept lag also
        `lags_s`, seconds by level.
    meta : dict
        `stage`, `seed`, `config`, `provenance`.
    subject_units : dict of str to dict of str to list of str
        `unit_labels` of every subject where they differ (voxels); else empty.
    """

    network: NeuroAlign
    scalers: Scalers
    weights: Weights
    centres: dict[str, dict[str, np.ndarray]]
    unit_labels: dict[str, list[str]]
    geometry: dict[str, Any]
    meta: dict[str, Any]
    subject_units: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def units_of(self, subject: str | None) -> dict[str, list[str]]:
        """Labels of the units of each level that the model reads in a subject."""
        return self.subject_units.get(subject or "", self.unit_labels)

    def embed_fmri(
        self,
        windows: BrainWindows | RoiSeries,
        subject: str | None = None,
        onset_s: np.ndarray | float | None = None,
    ) -> Embedding:
        """Embed brain windows.

        Parameters
        ----------
        windows : BrainWindows or RoiSeries
            Windows as the paired dataset holds them, or the series of a whole run together with `onset_s`. Of more units
            than the model reads (selected voxels), its own are taken by their labels.
        subject : str, optional
            A subject of the training data has parameters of its own; others use the shared ones (parcels only).
        onset_s : array of shape (n,) or float, optional
            Clip onsets in seconds on the clock of the run, for a series.

        Returns
        -------
        Embedding of n windows

        Raises
        ------
        UserError
            If the units are not those the model was trained on, an onset has too few volumes, or the model is
            one of voxels and the subject unknown.
        """
        if isinstance(windows, RoiSeries):
            windows = self._cut(self.own_units(windows, subject), onset_s)
        return embed_brain(self.network, self.brain_input(windows, subject))

    def embed_video(
        self,
        windows: Mapping[str, np.ndarray] | VideoWindows | shards.Embedding,
        start_s: np.ndarray | float | None = None,
        captions: Captions | None = None,
    ) -> Embedding:
        """Embed clips, and their captions where they come with them and the model learned from captions.

        Parameters
        ----------
        windows : mapping of level to array (n, steps, dim), VideoWindows, or an embedding file's content
            The last together with `start_s`. A mapping has no surround: its clips are taken as they are.
        start_s : array of shape (n,) or float, optional
            Clip starts in seconds from stimulus start.
        captions : Captions, optional
            Embedded captions of the stimulus, for an embedding file's content; `VideoWindows` bring their own.
        """
        text: tuple[np.ndarray, np.ndarray] | None = None
        surround, share = None, None
        if isinstance(windows, shards.Embedding):
            from neuroalign.pairs.windows import video_steps, video_surround

            if start_s is None:
                raise UserError(
                    "embed_video needs start_s (seconds) to cut clips out of a stimulus embedding."
                )
            levels, _, covered = video_steps(
                windows, start_s, self.geometry["duration_s"], self.geometry["step_s"]
            )
            if not covered.all():
                late = np.atleast_1d(np.asarray(start_s, float))[~covered][0]
                raise UserError(f"The stimulus embedding does not cover the clip that starts at {late:g} s.")
            reach_s = self.geometry.get("surround_s", 0.0)
            if reach_s:
                surround, share = video_surround(windows, start_s, self.geometry["duration_s"], reach_s)
            if captions is not None and self.network.reads_text:
                from neuroalign.pairs.text import text_steps

                text = text_steps(captions, start_s, self.geometry["duration_s"], self.geometry["step_s"])
        elif isinstance(windows, VideoWindows):
            levels, surround, share = windows.levels, windows.surround, windows.surround_share
            text = None if windows.text is None else (windows.text, windows.has_text)
        else:
            levels = dict(windows)
        clips = embed_clips(self.network, self.video_input(levels, surround, share))
        if text is None or not self.network.reads_text:
            return clips
        return with_text(self.network, clips, self.text_input(*text))

    def score(
        self,
        fmri: Embedding,
        video: Embedding,
        centres: Mapping[str, Mapping[str, np.ndarray] | None] | None = None,
    ) -> np.ndarray:
        """Fused score of every brain window with every clip: float32 array (n, m); larger is more alike.

        With `centres` (by ``video`` and ``text``; those of training where one is absent), the clips are part of a gallery
        with these means, instead of being the whole gallery.
        """
        return fuse(self.parts(fmri, video, centres), self.weights)["fused"]

    def scores(self, fmri: Embedding, video: Embedding) -> dict[str, np.ndarray]:
        """Every score that is reported, by name (`score.REPORTED`).

        Clips with captions also have `text`, by their captions alone, and `video_only`, the fused score without them: what
        a gallery without captions gets.
        """
        found = fuse(self.parts(fmri, video), self.weights)
        if video.text is not None:
            found["video_only"] = self.score(fmri, replace(video, text=None))
        return {name: found[name] for name in REPORTED if name in found}

    def parts(
        self,
        fmri: Embedding,
        video: Embedding,
        centres: Mapping[str, Mapping[str, np.ndarray] | None] | None = None,
    ) -> dict[str, np.ndarray]:
        """The unweighted parts of the score; see `score.similarity_parts`."""
        known = {**self.centres, **(centres or {})}
        means = (known.get(side) for side in ("brain", "video", "text"))
        fixed = centres is not None
        return similarity_parts(fmri, video, self.weights.near_steps, *means, self.weights.text, fixed)

    def brain_input(self, windows: BrainWindows, subject: str | None) -> BrainInput:
        """Scaled tensors of brain windows."""
        architecture = self.network.architecture
        windows = self.own_units(windows, subject)
        for level in architecture.brain_levels:
            if level not in windows.levels:
                raise UserError(f"The brain windows lack level '{level}'{nearest(level, windows.levels)}.")
            scaler = self.scalers.brain.get((subject or "", level)) or self.scalers.brain[("", level)]
            if windows.levels[level].shape[-1] != len(scaler.mean):
                raise UserError(
                    f"Level '{level}' has {windows.levels[level].shape[-1]} units, but the model was trained on "
                    f"{len(scaler.mean)}; use the same atlas and levels."
                )
        levels = {
            level: torch.from_numpy(
                self.scalers.scale_brain(
                    subject or "", level, np.where(windows.valid[..., None], windows.levels[level], 0.0)
                )
            )
            for level in architecture.brain_levels
        }
        index = architecture.subjects.index(subject) if subject in architecture.subjects else -1
        return BrainInput(
            levels,
            torch.from_numpy(np.asarray(windows.times, np.float32)),
            torch.from_numpy(np.asarray(windows.valid, bool)),
            torch.full((len(windows.times),), index, dtype=torch.long),
        )

    def video_input(
        self,
        levels: Mapping[str, np.ndarray],
        surround: Mapping[str, np.ndarray] | None = None,
        share: np.ndarray | None = None,
    ) -> dict[str, torch.Tensor]:
        """Scaled tensors of video windows; see `Scalers.scale_video`."""
        steps = len(self.network.architecture.step_times)
        out = {}
        for level in self.network.architecture.video_levels:
            if level not in levels:
                raise UserError(f"The video windows lack level '{level}'{nearest(level, levels)}.")
            x, scaler = np.asarray(levels[level], np.float32), self.scalers.video[level]
            if x.ndim != 3 or x.shape[1:] != (steps, len(scaler.mean)):
                raise UserError(
                    f"Video level '{level}' has shape {x.shape}; the model needs (clips, {steps}, {len(scaler.mean)})."
                )
            around = None if surround is None else np.asarray(surround[level], np.float32)
            out[level] = torch.from_numpy(self.scalers.scale_video(level, x, around, share))
        return out

    def text_input(self, text: np.ndarray, present: np.ndarray) -> TextInput:
        """Scaled tensors of text windows (n, steps, dim), of which those at `present` (n, steps) hold text."""
        (level, scaler), steps = (
            next(iter(self.scalers.text.items())),
            len(self.network.architecture.step_times),
        )
        if text.ndim != 3 or text.shape[1:] != (steps, len(scaler.mean)):
            raise UserError(
                f"The captions have shape {text.shape}; the model needs (clips, {steps}, {len(scaler.mean)}): embed them "
                "with the text model it was trained with."
            )
        scaled = self.scalers.scale_text(np.asarray(text, np.float32), np.asarray(present, bool))
        return TextInput({level: torch.from_numpy(scaled)}, torch.from_numpy(np.asarray(present, bool)))

    def own_units(self, brain: Brain, subject: str | None) -> Brain:
        """Windows or series of the units that the model reads, in its order."""
        architecture = self.network.architecture
        if subject not in architecture.subjects and not architecture.shared_units:
            raise UserError(
                f"This model of voxels has a map per subject and knows no subject '{subject}'"
                f"{nearest(str(subject), architecture.subjects)}; it knows {', '.join(architecture.subjects)}."
            )
        levels, labels = dict(brain.levels), dict(brain.unit_labels)
        for level, wanted in self.units_of(subject).items():
            given = labels.get(level)
            if given is None or given == wanted or level not in levels:
                continue
            place = {label: i for i, label in enumerate(given)}
            missing = [label for label in wanted if label not in place]
            if missing:
                raise UserError(
                    f"Level '{level}' has {len(given)} units, but lacks '{missing[0]}' of the {len(wanted)} that the "
                    "model was trained on; use the same atlas and levels."
                )
            levels[level] = levels[level][..., [place[label] for label in wanted]]
            labels[level] = wanted
        return replace(brain, levels=levels, unit_labels=labels)

    def _cut(self, series: RoiSeries, onset_s: np.ndarray | float | None) -> BrainWindows:
        from neuroalign.config.fmri import Hrf
        from neuroalign.pairs.windows import at_lags, brain_window, step_times

        if onset_s is None:
            raise UserError("embed_fmri needs onset_s (seconds) to cut windows out of the series of a run.")
        hrf = Hrf(**self.geometry["hrf"])
        cut = brain_window(series, onset_s, self.geometry["duration_s"], self.geometry["step_s"], hrf)
        if not cut.usable.all():
            bad = np.atleast_1d(np.asarray(onset_s, float))[~cut.usable][0]
            raise UserError(
                f"The run has too few usable volumes for the clip at {bad:g} s; leave that onset out."
            )
        rows = np.arange(len(cut.times))
        windows = BrainWindows(rows, cut.levels, cut.times, cut.valid, series.unit_labels, hrf.aligned)
        if not hrf.sweeps:
            return windows
        steps = step_times(self.geometry["duration_s"], self.geometry["step_s"])
        return at_lags(windows, steps, self.geometry["lags_s"])

    def save(self, folder: str | os.PathLike) -> None:
        """Write ``model.safetensors`` and ``model.json`` (last: a folder with it is whole)."""
        folder = Path(folder)
        arrays = {
            f"network.{name}": np.ascontiguousarray(value.detach().cpu().numpy())
            for name, value in self.network.state_dict().items()
        }
        arrays |= self.scalers.arrays()
        for side, parts in self.centres.items():
            arrays |= {f"centre.{side}/{part}": np.ascontiguousarray(x) for part, x in parts.items()}
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(arrays, temporary)
        write_json(
            folder / META_FILE,
            {
                "format": FORMAT,
                "architecture": self.network.architecture.plain(),
                "score": {
                    "alpha": self.weights.alpha,
                    "beta": self.weights.beta,
                    "near_steps": self.weights.near_steps,
                    **({"text": self.weights.text} if self.network.reads_text else {}),
                },
                "unit_labels": list(map(list, self.unit_labels.items())),
                "subject_units": {
                    s: list(map(list, units.items())) for s, units in self.subject_units.items()
                },
                "scalers": {name: list(array.shape) for name, array in self.scalers.arrays().items()},
                "geometry": self.geometry,
                **self.meta,
            },
        )


def load(path: str | os.PathLike, device: str = "cpu") -> TrainedModel:
    """Load a trained model.

    Parameters
    ----------
    path : path
        A model folder (``.../vq`` or ``.../ntcl``), or the folder above them (``models/seed-0``), of which the
        last stage is taken.
    device : str

    Raises
    ------
    UserError
        If there is no model, or it is damaged or of another format.
    """
    folder = model_folder(path)
    meta = read_json(folder / META_FILE)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{folder / META_FILE} is not of the model format {FORMAT}; train the model again.")
    try:
        arrays = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder / WEIGHTS_FILE} cannot be read ({error}); train the model again."
        ) from error
    network = NeuroAlign(Architecture.of(meta.pop("architecture")))
    state = {
        n.removeprefix("network."): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("network.")
    }
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{folder / WEIGHTS_FILE} does not fit its {META_FILE}; train the model again."
        ) from error
    centres: dict[str, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        if name.startswith("centre."):
            side, part = name.removeprefix("centre.").split("/")
            centres.setdefault(side, {})[part] = value
    meta.pop("format"), meta.pop("scalers")
    # Absent from models of versions before units could be selected.
    subject_units = {s: dict(map(tuple, units)) for s, units in meta.pop("subject_units", {}).items()}
    return TrainedModel(
        network.to(device).eval(),
        Scalers.of(arrays),
        Weights(**meta.pop("score")),
        centres,
        dict(map(tuple, meta.pop("unit_labels"))),
        meta.pop("geometry"),
        meta,
        subject_units,
    )


def model_folder(path: str | os.PathLike) -> Path:
    """The folder of a model: the one given, or that of the last stage in it.

    Raises
    ------
    UserError
        If there is none.
    """
    path = Path(path)
    for folder in (path, path / "vq", path / "ntcl"):
        if (folder / META_FILE).exists():
            return folder
    raise UserError(f"{path} holds no trained model ({META_FILE}, or vq/ or ntcl/ with one).")
