"""Training data: a paired dataset as scaled tensors, with scalers fitted on the train split only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neuroalign.config.train import Encoder
from neuroalign.errors import UserError
from neuroalign.models.losses.contrast import Content
from neuroalign.models.model import TEXT, BrainInput, TextInput
from neuroalign.models.scaling import Moments, Scaler, Scalers, whitening, z_score
from neuroalign.pairs.store import PairedDataset
from neuroalign.training.processes import ALONE, Processes
from neuroalign.training.windows import Brain, ScaledWindows, placed

log = logging.getLogger(__name__)

_FEWEST_CAPTIONS = 8


@dataclass
class Presentations:
    """Brain windows of one split, all subjects together.

    Attributes
    ----------
    brain : BrainInput of n windows, or what stands for it (`training.windows`)
    clip : int Tensor (n,)
        Row of the clip's content. On the CPU, where batches are put together.
    """

    brain: Brain
    clip: Tensor

    def to(self, device: torch.device) -> Presentations:
        """The same for a network on another device."""
        return Presentations(placed(self.brain, device), self.clip)


@dataclass
class TrainingData:
    """Everything the loop draws batches from.

    Attributes
    ----------
    video : dict of str to Tensor (contents, steps, dim)
    content : Content
        Of every row of `video`.
    train, validation : Presentations
    text : TextInput of all contents, optional
    surround : dict of str to Tensor (contents, dim), optional
        What `video` is relative to, scaled; None where pairs hold no surround.
    """

    video: dict[str, Tensor]
    content: Content
    train: Presentations
    validation: Presentations
    text: TextInput | None = None
    surround: dict[str, Tensor] | None = None

    def with_surround(self, share: float) -> TrainingData:
        """The same with only a share of the surround taken from the video; `self` has all of it taken."""
        if self.surround is None or share == 1.0:
            return self
        video = {name: x + (1 - share) * self.surround[name][:, None] for name, x in self.video.items()}
        return replace(self, video=video)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return next(iter(self.video.values())).device

    @property
    def ready(self) -> bool:
        """Whether batches need no more than indexing: the windows lie where the network is."""
        brain = self.train.brain
        return isinstance(brain, BrainInput) and brain.times.device == self.device

    def to(self, device: torch.device) -> TrainingData:
        """The same on another device."""
        c = self.content
        return TrainingData(
            {name: x.to(device) for name, x in self.video.items()},
            Content(c.clip.to(device), c.stimulus.to(device), c.start_s.to(device)),
            self.train.to(device),
            self.validation.to(device),
            None if self.text is None else self.text.to(device),
            None if self.surround is None else {name: x.to(device) for name, x in self.surround.items()},
        )


@dataclass
class Batch:
    """Presentations and the distinct clips they belong to.

    Attributes
    ----------
    brain : BrainInput of n windows
    video : dict of str to Tensor (m, steps, dim)
    own : int Tensor (n,)
        Row of `video` of each window.
    rows, columns : Content
        Of the n windows and the m clips.
    text : TextInput of m clips, optional

    Notes
    -----
    Of several processes each has its share of the inputs (`brain`, `video`, `text`) alone, in the order of the others,
    which are of the whole batch.
    """

    brain: BrainInput
    video: dict[str, Tensor]
    own: Tensor
    rows: Content
    columns: Content
    text: TextInput | None = None


def take_batch(
    data: TrainingData, presentations: Presentations, rows: Tensor, processes: Processes = ALONE
) -> Batch:
    """The batch of some presentations, of which each process has its share; a clip shown several times is encoded once."""
    rows = rows.cpu()
    clips, own = torch.unique(presentations.clip[rows], return_inverse=True)
    mine = processes.share(len(rows))
    clips, own, columns = (x.to(data.device, non_blocking=True) for x in (clips, own, clips[own]))
    heard = clips[processes.share(len(clips))]
    return Batch(
        presentations.brain.take(rows[mine]),
        {name: x[heard] for name, x in data.video.items()},
        own,
        data.content.take(columns),
        data.content.take(clips),
        None if data.text is None else data.text.take(heard),
    )


def batch_rows(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each batch of an epoch in random order; a last batch too small to contrast joins the one before."""
    order = torch.randperm(n, generator=generator)
    count = max(1, round(n / size))
    yield from order.tensor_split(count)


def trained_subjects(pairs: PairedDataset) -> list[str]:
    """The subjects with training clips; the others (``split.by: subject``) are unseen and share what is learned.

    Raises
    ------
    UserError
        If there is none, or a subject is unseen and units differ between subjects (voxels).
    """
    known = [subject for subject in pairs.subjects if len(pairs.contents(subject, "train"))]
    unseen = [subject for subject in pairs.subjects if subject not in known]
    if not known:
        raise UserError("The train split holds no clip of any subject; change split in the configuration.")
    if unseen and not pairs.same_units:
        raise UserError(
            f"Subject {unseen[0]} has no training clip, and units that differ between subjects (voxels) cannot be "
            "shared: set fmri.units to parcels, or split by something else than subject."
        )
    return known


def fit_scalers(pairs: PairedDataset, config: Encoder) -> Scalers:
    """Fit z-scores and whitening on the train split.

    Brain units are z-scored per subject over valid volumes; whitening is pooled over subjects for shared units, per subject
    otherwise. Video features use the distinct training clips, text those of their steps that have a caption. Where pairs hold the
    films' surround, video features are scaled relative to all of it.
    """
    shared, known = pairs.same_units, trained_subjects(pairs)
    first = pairs.brain[known[0]]
    brain: dict[tuple[str, str], Scaler] = {}
    total = sum(_valid_volumes(pairs, subject) for subject in known)
    pooled = {level: Moments(total, x.shape[-1]) for level, x in first.levels.items() if shared}
    # One person's windows at a time: those of all do not fit into every memory.
    for subject in known:
        windows, _ = pairs.of(subject, "train")
        for level, data in windows.levels.items():
            x = data[windows.valid]
            brain[subject, level] = scaler = z_score(x)
            if config.whiten and shared:
                pooled[level].add(scaler(x))
            elif config.whiten:
                scaler.matrix = whitening(scaler(x), config.components, config.shrinkage)
    for level in pooled:
        fitted = [brain[s, level] for s in known]
        brain["", level] = Scaler(
            *(np.mean([getattr(k, p) for k in fitted], axis=0) for p in ("mean", "std"))
        )
        if config.whiten:
            matrix = pooled[level].whitening(config.components, config.shrinkage)
            for subject in ("", *known):
                brain[subject, level].matrix = matrix
    video = {}
    rows = np.unique(np.concatenate([pairs.contents(s, "train") for s in known]))
    seen = pairs.video
    for level, data in seen.levels.items():
        mean = z_score(data[rows].reshape(-1, data.shape[-1])).mean
        x = data[rows] - mean
        if seen.surround is not None:
            x = x - seen.surround_share[rows, None, None] * (seen.surround[level][rows] - mean)[:, None]
        x = x.reshape(-1, data.shape[-1])
        std = z_score(x).std
        video[level] = Scaler(mean, std)
        if config.whiten:
            video[level].matrix = whitening(x / std, config.components, config.shrinkage)
    return Scalers(brain, video, _fit_text(pairs, rows, config), 0.0 if seen.surround is None else 1.0)


def _valid_volumes(pairs: PairedDataset, subject: str) -> int:
    windows = pairs.brain[subject]
    return int(windows.valid[(pairs.clips["split"].to_numpy() == "train")[windows.rows]].sum())


def _fit_text(pairs: PairedDataset, rows: np.ndarray, config: Encoder) -> dict[str, Scaler]:
    """The scaler of captions, fitted on those of the contents at `rows`; empty without text."""
    if pairs.video.text is None:
        return {}
    x = pairs.video.text[rows][pairs.video.has_text[rows]]
    if len(x) < _FEWEST_CAPTIONS:
        raise UserError(
            f"Only {len(x)} steps of the training clips have a caption: caption more of the films, or set text.source to none."
        )
    scaler = z_score(x)
    if config.whiten:
        scaler.matrix = whitening(scaler(x), config.components, config.shrinkage)
    return {TEXT: scaler}


def to_tensors(pairs: PairedDataset, scalers: Scalers, memory_mb: float | None = None) -> TrainingData:
    """Scale the train and validation splits and put them on tensors.

    Parameters
    ----------
    pairs : PairedDataset
    scalers : Scalers
    memory_mb : float, optional
        Megabytes that scaled brain windows may take. What does not fit is scaled batch by batch (`ScaledWindows`), which gives
        the same numbers; None: everything is to fit.
    """
    index = {clip: row for row, clip in enumerate(pairs.video.clip_ids)}
    table = pairs.clips.drop_duplicates("clip_id").set_index("clip_id").reindex(pairs.video.clip_ids)
    stimulus = table["stimulus"].astype("category").cat.codes.to_numpy(np.int64)
    content = Content(
        torch.arange(len(index)),
        torch.from_numpy(stimulus.copy()),
        torch.from_numpy(table["start_s"].fillna(0.0).to_numpy(np.float32).copy()),
    )
    seen, surround = pairs.video, None
    if seen.surround is not None:
        surround = {
            level: torch.from_numpy(scalers.scaled_surround(level, m, seen.surround_share))
            for level, m in seen.surround.items()
        }
    video = {}
    for level, x in seen.levels.items():
        around = None if seen.surround is None else seen.surround[level]
        video[level] = torch.from_numpy(scalers.scale_video(level, x, around, seen.surround_share))
    text = None
    if scalers.text and pairs.video.text is not None:
        scaled = torch.from_numpy(scalers.scale_text(pairs.video.text, pairs.video.has_text))
        text = TextInput({TEXT: scaled}, torch.from_numpy(pairs.video.has_text))
    known, parts = trained_subjects(pairs), {}
    left = float("inf") if memory_mb is None else memory_mb * 1e6
    # Validation first: it is the smaller part, and every epoch reads all of it.
    for split in ("validation", "train"):
        windows = ScaledWindows(pairs, scalers, split, known)
        if not len(windows):
            raise UserError(
                f"The {split} split holds no clip of any subject; change split in the configuration."
            )
        fits = windows.bytes <= left
        left -= windows.bytes if fits else 0
        if not fits:
            log.info("%s windows (%.0f MB) are scaled batch by batch", split, windows.bytes / 1e6)
        clip = np.concatenate([pairs.contents(subject, split) for subject in pairs.subjects])
        parts[split] = Presentations(
            windows.load() if fits else windows, torch.from_numpy(clip.astype(np.int64))
        )
    return TrainingData(video, content, parts["train"], parts["validation"], text, surround)
