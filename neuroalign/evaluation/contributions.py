r"""What carries retrieval: brain levels one by one, and occlusion by region and by network.

Occlusion replaces the signal of some units by its mean over the training windows (zero after z-scoring) in the *test* windows of
a trained model, and measures what retrieval loses. The model is not trained again: what is measured is what this model
reads from a region beyond what it reads from all others. Regions that say the same as others cost nothing.

Table
-----
`kind, name, level, units, subject, metric, value, drop, ci_low, ci_high, n_queries`, one number per row:

- `kind` ``whole``: nothing occluded. ``single``: only the level `name` is heard. ``without``: the level is occluded. ``network`` and
  ``region``: it is occluded (networks only where labels name them).
- `metric` ``quality`` is :math:`1 - \overline{\log r} / \log N` (1: every true candidate is first; about :math:`1/\log N` at
  chance), ``top1`` the share of queries whose true candidate is first. Both are means over both directions.
- `value` is with occlusion, `drop` the value of the whole brain minus it, and the interval that of `drop`, by block
  bootstrap over clips. `subject` ``all`` is the mean over people; single people have rows for levels only.
- `units` is the number of units occluded, of the largest person.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from neuroalign.config.evaluate import Evaluate
from neuroalign.errors import UserError
from neuroalign.evaluation import bootstrap
from neuroalign.models.score import Embedding
from neuroalign.models.trained import TrainedModel
from neuroalign.pairs.regions import network_of, units_by_region
from neuroalign.pairs.store import BrainWindows, PairedDataset

log = logging.getLogger(__name__)

COLUMNS = (
    *(
        "kind",
        "name",
        "level",
        "units",
        "subject",
        "metric",
        "value",
        "drop",
        "ci_low",
        "ci_high",
        "n_queries",
    ),
)
METRICS = ("quality", "top1")
# Windows embedded at a time, and most bytes of them: several occlusions share a pass through the network.
_TOGETHER, _BYTES = 2048, 2**28

# By level, the units that are occluded.
Units = dict[str, np.ndarray]


@dataclass(frozen=True)
class Occlusion:
    """What is replaced by its training mean.

    Attributes
    ----------
    kind, name, level : str
        As in the table.
    """

    kind: str
    name: str
    level: str = ""


def contributions(
    model: TrainedModel, pairs: PairedDataset, config: Evaluate, split: str = "test"
) -> pd.DataFrame:
    """Measure what every level, network and region contributes to retrieval.

    Parameters
    ----------
    model : TrainedModel
    pairs : PairedDataset
    config : Evaluate
        `block_s`, `bootstrap`, `confidence` and `seed` are read.
    split : str
        Whose windows are occluded and retrieved.

    Returns
    -------
    DataFrame
        See the module's docstring.

    Raises
    ------
    UserError
        If the split holds no window of any subject.
    """
    found: dict[Occlusion, dict[str, np.ndarray]] = {}
    units: dict[Occlusion, int] = {}
    about: dict[str, pd.DataFrame] = {}
    for subject in pairs.subjects:
        windows, video_rows = pairs.of(subject, split)
        if not len(windows.rows):
            continue
        candidates, truth = np.unique(video_rows, return_inverse=True)
        clips = model.embed_video(pairs.video.select(candidates))
        about[subject] = _queries(pairs, windows, truth)
        for occlusion, count, brain in _embedded(model, windows, subject):
            values = query_values(model.score(brain, clips), truth)
            found.setdefault(occlusion, {})[subject] = values
            units[occlusion] = max(units.get(occlusion, 0), count)
        log.info("%s: %d occlusions", subject, len(found) - 1)
    if not found:
        raise UserError(f"The {split} split holds no clip of any subject; change split in the configuration.")
    return _table(found, units, about, config)


def query_values(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Quality and top-1 of every query of both directions.

    Parameters
    ----------
    scores : array of shape (windows, clips)
    truth : int array of shape (windows,)
        Column of each window's clip; every clip has a window.

    Returns
    -------
    array of shape (2, windows + clips)
        Rows as `METRICS`; first the windows (candidates are clips), then the clips (candidates are one window of each clip, its
        first). Ties share the mean of their ranks, and top-1 is its expectation under random tie breaking.
    """
    first = np.unique(truth, return_index=True)[1]
    backward = scores[first].T
    return np.concatenate(
        [_values(scores, truth), _values(backward, np.arange(len(backward)))],
        axis=1,
    )


def _values(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    own = scores[np.arange(len(true)), true][:, None]
    higher = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1) - 1
    quality = 1 - np.log(1 + higher + tied / 2) / np.log(max(2, scores.shape[1]))
    return np.stack([quality, (higher == 0) / (1 + tied)])


def _queries(pairs: PairedDataset, windows: BrainWindows, truth: np.ndarray) -> pd.DataFrame:
    """Where in which stimulus every query lies, in the order of `query_values`, and its direction."""
    table = pairs.clips.iloc[windows.rows][["stimulus", "start_s"]]
    first = np.unique(truth, return_index=True)[1]
    return pd.concat([table.assign(direction=0), table.iloc[first].assign(direction=1)], ignore_index=True)


def _embedded(
    model: TrainedModel, windows: BrainWindows, subject: str
) -> Iterator[tuple[Occlusion, int, Embedding]]:
    """Every occlusion, the units it takes and the embeddings it leaves; several share a pass."""
    means, everything = _training_means(model, windows, subject), _occlusions(windows)
    n = len(windows.rows)
    size = sum(data.nbytes for data in windows.levels.values())
    together = max(1, min(_TOGETHER // n, _BYTES // max(size, 1)))
    for start in range(0, len(everything), together):
        some = everything[start : start + together]
        tiled = windows.select(np.tile(np.arange(n), len(some)))
        for k, (_, hidden) in enumerate(some):
            for level, units in hidden.items():
                tiled.levels[level][k * n : (k + 1) * n, :, units] = means[level][units]
        embedding = model.embed_fmri(tiled, subject)
        for k, (occlusion, hidden) in enumerate(some):
            count = sum(len(units) for units in hidden.values())
            yield occlusion, count, embedding.take(np.arange(k * n, (k + 1) * n))


def _training_means(model: TrainedModel, windows: BrainWindows, subject: str) -> dict[str, np.ndarray]:
    """Training mean of every unit of the windows; units that the model does not read have 0, which it does not see."""
    means = {}
    for level, labels in windows.unit_labels.items():
        scaler = model.scalers.brain.get((subject, level)) or model.scalers.brain.get(("", level))
        if scaler is None:
            means[level] = np.zeros(len(labels), np.float32)
            continue
        known = dict(zip(model.units_of(subject)[level], scaler.mean, strict=True))
        means[level] = np.array([known.get(label, 0.0) for label in labels], np.float32)
    return means


def _occlusions(windows: BrainWindows) -> list[tuple[Occlusion, Units]]:
    """All occlusions of a subject, with the units of each."""
    labels = windows.unit_labels
    whole = {level: np.arange(len(names)) for level, names in labels.items()}
    out: list[tuple[Occlusion, Units]] = [(Occlusion("whole", "all"), {})]
    if len(labels) > 1:
        for level, units in whole.items():
            others = {name: u for name, u in whole.items() if name != level}
            out.append((Occlusion("single", level, level), others))
            out.append((Occlusion("without", level, level), {level: units}))
    networks: dict[str, Units] = {}
    regions: list[tuple[Occlusion, Units]] = []
    for level, names in labels.items():
        for region, units in units_by_region(names).items():
            regions.append((Occlusion("region", region, level), {level: units}))
            if network := network_of(region):
                before = networks.setdefault(network, {}).get(level, np.zeros(0, int))
                networks[network][level] = np.concatenate([before, units])
    if len(networks) > 1:
        out += [(Occlusion("network", name), hidden) for name, hidden in networks.items()]
    return out + regions


def _table(
    found: Mapping[Occlusion, Mapping[str, np.ndarray]],
    units: Mapping[Occlusion, int],
    about: Mapping[str, pd.DataFrame],
    config: Evaluate,
) -> pd.DataFrame:
    """Values, drops and intervals of every occlusion, for people alone (levels) and all together."""
    whole = found[Occlusion("whole", "all")]
    judge = _Judge(about, config)
    rows = []
    for occlusion, subjects in found.items():
        # A region that somebody lacks (voxels) costs that person nothing.
        values = {s: subjects.get(s, whole[s]) for s in whole}
        people = [] if occlusion.kind in ("region", "network") or len(whole) < 2 else list(whole)
        for name, chosen in [("all", list(whole)), *((s, [s]) for s in people)]:
            for k, metric in enumerate(METRICS):
                value = judge.mean({s: values[s][k] for s in chosen})
                drop, low, high = judge.interval({s: whole[s][k] - values[s][k] for s in chosen})
                count = sum(len(about[s]) for s in chosen)
                same = (occlusion.kind, occlusion.name, occlusion.level, units[occlusion], name, metric)
                rows.append((*same, value, drop, low, high, count))
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Judge:
    """Means over people and directions, and block-bootstrap intervals: blocks are stretches of a stimulus, for all people at once."""

    def __init__(self, about: Mapping[str, pd.DataFrame], config: Evaluate):
        joined = pd.concat(list(about.values()))
        block = bootstrap.block_of(
            joined["stimulus"].to_numpy(str), joined["start_s"].to_numpy(), config.block_s
        )
        ends = np.cumsum([len(table) for table in about.values()])[:-1]
        self.block = dict(zip(about, np.split(block, ends), strict=True))
        self.direction = {s: table["direction"].to_numpy() for s, table in about.items()}
        self.blocks = int(block.max()) + 1
        self.confidence = config.confidence
        rng = np.random.default_rng([config.seed, 7])
        self.weights = bootstrap.resample_weights(self.blocks, config.bootstrap, rng)

    def _shares(self, subject: str) -> np.ndarray:
        """Weight of each query: directions, and people, count alike however many queries they have."""
        return 1 / np.bincount(self.direction[subject])[self.direction[subject]]

    def mean(self, values: Mapping[str, np.ndarray]) -> float:
        """The mean over queries of a direction, then directions, then people."""
        return float(np.mean([np.average(v, weights=self._shares(s)) for s, v in values.items()]))

    def interval(self, values: Mapping[str, np.ndarray]) -> tuple[float, float, float]:
        """`mean` with its interval, over resampled blocks."""
        sums, counts = np.zeros(self.blocks), np.zeros(self.blocks)
        for subject, v in values.items():
            shares, block = self._shares(subject), self.block[subject]
            sums += np.bincount(block, shares * v, minlength=self.blocks)
            counts += np.bincount(block, shares, minlength=self.blocks)
        drawn = self.weights @ counts
        here = drawn > 0
        distribution = (self.weights[here] @ sums) / drawn[here]
        low, high = bootstrap.interval(distribution, int((counts > 0).sum()), self.confidence)
        return float(sums.sum() / counts.sum()), low, high
