"""Train, validation and test: contiguous parts of content, with unused clips between them.

A clip's content never lies on two sides, so parts are made of *content* (stimuli, stretches of them, groups of
runs that share any) and every presentation follows. Only ``by: subject`` asks another question, that of an unseen
subject, and there content is shared by design.
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from neuroalign.config.pairs import Split
from neuroalign.errors import UserError, nearest

log = logging.getLogger(__name__)


def assign_splits(clips: pd.DataFrame, config: Split) -> pd.DataFrame:
    """Add the columns `group` and `split` (and `split_<k>` with several folds) to a clip table.

    Parameters
    ----------
    clips : DataFrame
        Columns of `clips.clip_table`.
    config : Split

    Returns
    -------
    DataFrame
        A copy. `split` is one of train, validation, test, guard.

    Raises
    ------
    UserError
        If there are too few units for the parts asked for, or `hold_out` matches nothing.
    """
    clips = clips.copy()
    clips["group"] = _groups(clips, config)
    if config.folds == 1:
        clips["split"] = _one_split(clips, _test_part(clips, config), config, fold=0)
        return clips
    for fold, test in enumerate(_folds(clips, config)):
        clips[f"split_{fold}"] = _one_split(clips, test, config, fold)
    clips["split"] = clips["split_0"]
    return clips


def _groups(clips: pd.DataFrame, config: Split) -> pd.Series:
    """The unit each clip is held out with."""
    if config.by == "run":
        return _linked_runs(clips)
    if config.by == "time":
        block = _content_block(clips, config.folds) if config.folds > 1 else 0
        return clips["stimulus"] if config.folds == 1 else clips["stimulus"] + "#" + block.astype(str)
    return clips[config.by]


def _linked_runs(clips: pd.DataFrame) -> pd.Series:
    """Runs that share any stimulus, in any subject, are one group, named after its first run."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    pairs = clips[["run_id", "stimulus"]].drop_duplicates()
    for run, stimulus in pairs.itertuples(index=False):
        parent[root(f"stimulus:{stimulus}")] = root(f"run:{run}")
    names: dict[str, str] = {}
    for run in pairs["run_id"].drop_duplicates():
        names.setdefault(root(f"run:{run}"), run)
    return clips["run_id"].map(lambda run: names[root(f"run:{run}")])


def _content_block(clips: pd.DataFrame, blocks: int) -> pd.Series:
    """Which of `blocks` contiguous stretches of its stimulus a clip's middle lies in."""
    end = (clips["start_s"] + clips["duration_s"]).groupby(clips["stimulus"]).transform("max")
    begin = clips["start_s"].groupby(clips["stimulus"]).transform("min")
    middle = clips["start_s"] + clips["duration_s"] / 2
    share = (middle - begin) / (end - begin)
    return np.minimum((share * blocks).astype(int), blocks - 1)


def _test_part(clips: pd.DataFrame, config: Split) -> np.ndarray:
    if config.hold_out:
        return _held_out(clips, config.hold_out)
    if config.by == "time":
        return _stretch(clips, np.ones(len(clips), bool), config.test, np.random.default_rng(config.seed))
    units = _sizes(clips, clips["group"])
    if len(units) < 2:
        finer = "stimulus or time" if config.by == "run" else "time"
        raise UserError(
            f"split.by is '{config.by}', but all clips belong to one {config.by} group: set split.by to {finer}."
        )
    return clips["group"].isin(_choose(units, config.test, np.random.default_rng(config.seed))).to_numpy()


def _held_out(clips: pd.DataFrame, hold_out: dict[str, list[str]], key: str = "hold_out") -> np.ndarray:
    part = np.ones(len(clips), bool)
    for entity, labels in hold_out.items():
        known = clips[entity].astype(str)
        wanted = {
            label.removeprefix(f"{ {'subject': 'sub', 'session': 'ses'}.get(entity, entity) }-")
            for label in labels
        }
        if entity == "run":
            known, wanted = known.str.lstrip("0"), {label.lstrip("0") for label in wanted}
        for label in sorted(wanted - set(known)):
            found = sorted(set(known))
            raise UserError(
                f"split.{key}: no clip has {entity} '{label}' (found: {', '.join(found[:10])})"
                f"{nearest(label, found) or '.'}"
            )
        part &= known.isin(wanted).to_numpy()
    if part.all() or not part.any():
        what = "every clip" if part.all() else "no clip"
        raise UserError(f"split.{key} = {hold_out} takes {what}: name a part of the data set.")
    return part


def _folds(clips: pd.DataFrame, config: Split) -> list[np.ndarray]:
    """The test part of each fold: k contiguous parts of the units."""
    k = config.folds
    if config.by == "time":
        block = _content_block(clips, k).to_numpy()
        return [block == fold for fold in range(k)]
    units = sorted(_sizes(clips, clips["group"]))
    if len(units) < k:
        raise UserError(
            f"split.folds is {k}, but there are only {len(units)} groups by {config.by}: "
            "lower split.folds or set split.by to time."
        )
    return [clips["group"].isin(part).to_numpy() for part in np.array_split(np.array(units, object), k)]


def _one_split(clips: pd.DataFrame, test: np.ndarray, config: Split, fold: int) -> np.ndarray:
    by_subject = config.unseen_people
    new = _new_content(clips, config)
    validation = _validation_part(clips, test, config, by_subject, np.random.default_rng([config.seed, fold]))
    split = np.full(len(clips), "train", dtype=object)
    split[validation] = "validation"
    split[test] = "test"
    for winner, losers in (("test", ("train", "validation")), ("validation", ("train",))):
        near = _near_in_run(clips, split == winner, config.guard_s)
        if not by_subject:
            near |= _near_in_content(clips, split == winner, config.guard_s)
        split[near & np.isin(split, losers)] = "guard"
    split[new & (split != "test")] = "guard"
    for part in ("train", "validation", "test"):
        if not (split == part).any():
            raise UserError(
                f"The split leaves no {part} clip (guard_s {config.guard_s:g} s): "
                "lower split.guard_s, change the shares, or set split.by to a finer unit."
            )
    return split


def _new_content(clips: pd.DataFrame, config: Split) -> np.ndarray:
    """Clips of content that nobody is trained on (`new_content`), whoever saw them, and what stands near it in the stimulus."""
    if not config.new_content:
        return np.zeros(len(clips), bool)
    named = _held_out(clips, config.new_content, "new_content")
    return _near_in_content(clips, named, max(config.guard_s, 0.0)) | named


def _validation_part(
    clips: pd.DataFrame, test: np.ndarray, config: Split, by_subject: bool, rng: np.random.Generator
) -> np.ndarray:
    """A share of what is not tested, by the coarsest unit that is fine enough for it."""
    rest = ~test
    if not by_subject:
        rest &= ~_near_in_content(clips, test, 0.0)
    share = (
        min(config.validation / max(1e-9, 1 - config.test), 0.8) if not config.hold_out else config.validation
    )
    ladder = (
        ["subject"]
        if config.by == "subject"
        else ["group", "stimulus"]
        if config.by == "run"
        else ["stimulus"]
    )
    if config.by == "time" and not by_subject:
        ladder = []
    for unit in ladder:
        sizes = _sizes(clips[rest], clips.loc[rest, unit])
        if len(sizes) >= 2 and min(sizes.values()) <= 1.5 * share * sum(sizes.values()):
            return rest & clips[unit].isin(_choose(sizes, share, rng)).to_numpy()
        if by_subject and len(sizes) >= 2:
            return rest & (clips[unit] == sorted(sizes)[-1]).to_numpy()
    log.info("split: units are too coarse for validation, so it is a stretch of every stimulus")
    return rest & _stretch(clips, rest, share, rng)


def _stretch(clips: pd.DataFrame, among: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A contiguous stretch of every stimulus, at one of its ends: one border costs less guard than two.

    Where part of the stimulus is taken already (a test block), the end lies away from it.
    """
    part = np.zeros(len(clips), bool)
    for _, rows in clips.groupby("stimulus"):
        free = among[rows.index]
        starts, taken = np.unique(rows["start_s"][free]), np.unique(rows["start_s"][~free])
        if len(starts) < 2:
            continue
        breaks = np.flatnonzero(np.diff(starts) > 1.5 * np.median(np.diff(starts))) + 1
        piece = max(np.split(starts, breaks), key=len)
        at_end = piece.mean() > taken.mean() if len(taken) else bool(rng.integers(2))
        count = min(max(1, round(share * len(starts))), max(1, len(piece) - 1))
        chosen = piece[-count:] if at_end else piece[:count]
        part[rows.index] = free & rows["start_s"].between(chosen[0] - 1e-6, chosen[-1] + 1e-6)
    return part


def _sizes(clips: pd.DataFrame, unit: pd.Series) -> dict[str, int]:
    """Number of different contents per unit."""
    return clips.groupby(unit.to_numpy())["clip_id"].nunique().to_dict()


def _choose(sizes: dict[str, int], share: float, rng: np.random.Generator) -> set[str]:
    """Units that together come nearest to a share: at least one, never all."""
    names = sorted(sizes)
    rng.shuffle(names)
    target, total, chosen = share * sum(sizes.values()), 0, set()
    for name in names:
        if chosen and abs(total + sizes[name] - target) >= abs(total - target):
            continue
        if len(chosen) + 1 == len(names):
            break
        chosen.add(name)
        total += sizes[name]
        if total >= target:
            break
    return chosen


def _near_in_run(clips: pd.DataFrame, part: np.ndarray, guard_s: float) -> np.ndarray:
    """Clips that begin or end within `guard_s` of a clip of `part` in the same run."""
    return _near(clips["run_id"].to_numpy(), clips["onset_s"], clips["duration_s"], part, guard_s)


def _near_in_content(clips: pd.DataFrame, part: np.ndarray, guard_s: float) -> np.ndarray:
    """Clips whose seconds of the stimulus overlap, or lie within `guard_s` of, those of `part`."""
    return _near(clips["stimulus"].to_numpy(), clips["start_s"], clips["duration_s"], part, guard_s)


def _near(
    key: np.ndarray, start: pd.Series, duration: pd.Series, part: np.ndarray, guard_s: float
) -> np.ndarray:
    begin, end = start.to_numpy(float), (start + duration).to_numpy(float)
    near = np.zeros(len(key), bool)
    for name in np.unique(key[part].astype(str)):
        here = np.flatnonzero(key == name)
        inside = here[part[here]]
        order = inside[np.argsort(begin[inside])]
        starts, ends = begin[order], np.maximum.accumulate(end[order])
        # The nearest clip of the part that begins before this one ends (plus guard), and reaches furthest.
        last = np.searchsorted(starts, end[here] + guard_s - 1e-6, side="left") - 1
        reach = np.where(last >= 0, ends[np.maximum(last, 0)], -np.inf)
        near[here] |= reach > begin[here] - guard_s + 1e-6
    return near
