"""Reading what the stages wrote. Nothing here computes a result; an absent file is `None`, not an error."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from neuroalign.io import read_json, read_tsv

# Labels such as `01` and seeds stay text.
_TEXT = (
    *("run_id", "subject", "session", "task", "run", "stimulus", "clip_id", "split", "group", "trial_type"),
    *("model", "model_a", "model_b", "seed", "direction", "gallery", "metric", "control", "ceiling"),
    *("level", "modality", "term", "expected", "passed"),
    *(f"top_{k}" for k in range(1, 6)),
)
_VALUES = ("value", "difference", "ci_low", "ci_high", "chance", "p_value")


class Results:
    """The output folder of a workflow, as the report sees it.

    Parameters
    ----------
    output_dir : path
        The folder that holds ``index/``, ``roi/``, ``pairs/``, ``models/`` and ``evaluation/``.
    config : mapping
        The full plain configuration (`Config.plain`).
    truth_dir : path, optional
        Ground truth of a simulated data set.
    """

    def __init__(self, output_dir: Path, config: Mapping[str, Any], truth_dir: Path | None = None):
        self.root = Path(output_dir)
        self.config = config
        self.truth_dir = Path(truth_dir) if truth_dir else None

    def setting(self, dotted: str, default: Any = None) -> Any:
        """A configuration value by dotted key."""
        value: Any = self.config
        for part in dotted.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return default if value is None else value

    @functools.cache  # noqa: B019 - one `Results` lives as long as one report
    def table(self, relative: str) -> pd.DataFrame | None:
        """A table below the output folder, or None where it does not exist or has no rows."""
        return self._read(self.root / relative)

    def truth(self, name: str) -> pd.DataFrame | None:
        """A table of the ground truth, or None."""
        return self._read(self.truth_dir / name) if self.truth_dir else None

    @staticmethod
    def _read(path: Path) -> pd.DataFrame | None:
        if not path.is_file():
            return None
        table = read_tsv(path, text=_TEXT)
        return table if len(table) else None

    @functools.cached_property
    def branches(self) -> list[str]:
        """The trained branches that this configuration names and that exist (``seed-0``, ``fold-1_seed-0``)."""
        folds = int(self.setting("split.folds", 1))
        seeds = self.setting("train.seeds", [0])
        names = [f"seed-{s}" for s in seeds]
        if folds > 1:
            names = [f"fold-{k}_{name}" for k in range(folds) for name in names]
        return [name for name in names if (self.root / "models" / name).is_dir()]

    def branch_tables(self, relative: str) -> pd.DataFrame | None:
        """The same table of all branches, with a ``branch`` column."""
        found = []
        for branch in self.branches:
            table = self.table(f"models/{branch}/{relative}")
            if table is not None:
                found.append(table.assign(branch=branch))
        return pd.concat(found, ignore_index=True) if found else None

    def description(self, branch: str, stage: str) -> Mapping[str, Any]:
        """What ``model.json`` says of a stage's model; empty where it is absent."""
        path = self.root / "models" / branch / stage / "model.json"
        return read_json(path) if path.is_file() else {}

    @functools.cached_property
    def summary(self) -> Mapping[str, Any]:
        """``pairs/summary.json``: how clips were cut, and how many were dropped; empty where it is absent."""
        path = self.root / "pairs" / "summary.json"
        return read_json(path) if path.is_file() else {}

    @functools.cached_property
    def metrics(self) -> pd.DataFrame | None:
        """``evaluation/metrics.tsv`` with one row per number (see `over_seeds`)."""
        table = self.table("evaluation/metrics.tsv")
        return None if table is None else over_seeds(table)

    @functools.cached_property
    def subjects(self) -> list[str]:
        """Subject labels in order, from the clips or, without them, from the metrics."""
        for table in (self.table("pairs/clips.tsv"), self.table("index/runs.tsv"), self.metrics):
            if table is not None:
                return [s for s in dict.fromkeys(sorted(table["subject"])) if s not in ("all", "")]
        return []


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """One row per number: the evaluator's own summary over seeds (``seed`` is ``all``) or the mean.

    Notes
    -----
    Averaging the ends of intervals over seeds keeps the width that the clips cause; it does not shrink it as
    if seeds were new data. Of p-values the largest is kept.
    """
    if "seed" not in table:
        return table
    models = table.groupby("model", sort=False) if "model" in table else [("", table)]
    return pd.concat([_one_seed(part) for _, part in models], ignore_index=True)


def _one_seed(table: pd.DataFrame) -> pd.DataFrame:
    if table["seed"].nunique() <= 1:
        return table
    summary = table["seed"] == "all"
    if summary.any():
        return table[summary]
    keys = [c for c in table.columns if c not in (*_VALUES, "seed", "n_queries")]
    how: dict[str, str] = {c: "mean" for c in _VALUES if c in table}
    how |= {c: "max" for c in ("p_value", "n_queries") if c in table}
    return table.groupby(keys, sort=False, dropna=False).agg(how).reset_index().assign(seed="all")


def pick(table: pd.DataFrame | None, **wanted: Any) -> pd.DataFrame:
    """The rows where every named column has the wanted value (or one of several); empty for no table."""
    if table is None:
        return pd.DataFrame(columns=["model", "subject", "direction", "metric", "value"])
    for column, value in wanted.items():
        if column not in table:
            continue
        if isinstance(value, Iterable) and not isinstance(value, str):
            table = table[table[column].isin(list(value))]
        else:
            table = table[table[column] == value]
    return table


def headline_rows(metrics: pd.DataFrame | None, **wanted: Any) -> pd.DataFrame:
    """Rows of the full gallery with no neighbours excluded: the numbers that headlines are made of."""
    rows = pick(metrics, gallery="full", **wanted)
    return rows[rows["exclude_s"] == rows["exclude_s"].min()] if "exclude_s" in rows and len(rows) else rows


def above_chance(row: Mapping[str, Any], level: float = 0.05) -> bool:
    """Whether a share lies above chance: its interval excludes chance, and the p-value (if any) agrees."""
    low, chance, p = row.get("ci_low"), row.get("chance"), row.get("p_value")
    if pd.isna(low) or pd.isna(chance):
        return bool(pd.notna(p) and p <= level)
    return bool(low > chance and (pd.isna(p) or p <= level))
