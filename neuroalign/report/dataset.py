"""What went in: subjects, runs, clips, and the split drawn on the time line of every run."""

from __future__ import annotations

import pandas as pd
from matplotlib.patches import Patch

from neuroalign.report.results import Results
from neuroalign.report.style import (
    MUTED,
    SPLIT_COLOURS,
    Picture,
    Section,
    drawing,
    listed,
    picture,
    plural,
    table,
)

# Rows of the time line; more would not be read.
_MOST_ROWS = 36


def section(results: Results) -> Section:
    """Counts, the split on a time line, and a table per subject."""
    out = Section("dataset", "What went in")
    clips, runs = results.table("pairs/clips.tsv"), results.table("index/runs.tsv")
    presentations = results.table("index/presentations.tsv")
    for name, found in (
        ("index/runs.tsv", runs),
        ("index/presentations.tsv", presentations),
        ("pairs/clips.tsv", clips),
    ):
        if found is None:
            out.absent.append(f"The table {name} is not there, so what it holds is not shown.")
    if clips is not None:
        out.reading.append(_counts(clips, runs))
        out.reading.append(_split_sentence(results, clips))
        out.reading += _dropped(results) + _shared_volumes(results)
        out.blocks.append(_time_line(clips))
    rows = _per_subject(clips, runs, presentations)
    if rows:
        columns = ["subject", "sessions", "runs", "minutes shown", "train", "validation", "test", "guard"]
        out.blocks.append(
            table("Per subject: runs, minutes of stimulus and clips in each part of the split", columns, rows)
        )
    return out


def split_columns(clips: pd.DataFrame) -> list[str]:
    """The columns that hold a split: one per fold, or ``split`` alone."""
    folds = sorted((c for c in clips.columns if c.startswith("split_")), key=lambda c: (len(c), c))
    return folds or ["split"]


def _counts(clips: pd.DataFrame, runs: pd.DataFrame | None) -> str:
    people = clips["subject"].nunique()
    shown = clips["clip_id"].nunique()
    n_runs = (
        len(runs) if runs is not None else len(clips.drop_duplicates(["subject", "session", "task", "run"]))
    )
    text = (
        f"{plural(people, 'subject')}, {plural(n_runs, 'run')}, {plural(clips['stimulus'].nunique(), 'stimulus', 'stimuli')}: "
        f"{plural(len(clips), 'presentation')} of {plural(shown, 'different clip')}"
    )
    repeated = int(clips.duplicated(["subject", "clip_id"]).sum())
    return (
        f"{text}, {repeated:,} of them repeats of a clip to the same person."
        if repeated
        else f"{text}; none is repeated to the same person."
    )


def _shared_volumes(results: Results) -> list[str]:
    """A warning where brain windows reach further than the guard between parts."""
    hrf = results.summary.get("geometry", {}).get("hrf", {})
    guard = float(results.setting("split.guard_s", 0) or 0)
    if hrf.get("method") != "adaptive":
        return []
    reach = float(hrf["window_s"][1]) - float(hrf["window_s"][0])
    if guard >= reach:
        return []
    return [
        f"Careful: parts stand {guard:g} s apart, but brain windows reach {reach:g} s past their clip, so that test and "
        f"training windows share volumes at the borders; set split.guard_s to {reach:g} or more."
    ]


def _dropped(results: Results) -> list[str]:
    """What of the presentations could not be used, and why; silent if all could."""
    summary = results.summary
    lost = {
        "too few uncensored volumes": summary.get("dropped_brain", 0),
        "no video features": summary.get("dropped_video", 0),
    }
    reasons = [f"{plural(count, 'clip')} had {why}" for why, count in lost.items() if count]
    told = [f"Left out: {listed(reasons)}."] if reasons else []
    for stimulus, found in summary.get("missing_video", {}).items():
        told.append(
            f"Careful: the film '{stimulus}' is damaged and used only up to second {found['at_s']:.1f} ({found['reason']}); "
            f"{plural(found['clips'], 'clip')} that would need what comes after {'was' if found['clips'] == 1 else 'were'} "
            "left out."
        )
    for stimulus, found in summary.get("shorter_than_shown", {}).items():
        told.append(
            f"Careful: by the events, '{stimulus}' was shown to second {found['shown_to_s']:.1f}, but the film lasts "
            f"{found['lasts_s']:.1f} s; check that it is the film that was shown."
        )
    if names := summary.get("without_clips"):
        named = [*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names
        told.append(f"No clip came of {listed(named)}: too short for a clip, or nothing usable was recorded.")
    return told


def _split_sentence(results: Results, clips: pd.DataFrame) -> str:
    folds = split_columns(clips)
    if len(folds) > 1:
        return f"Cross-validation over {len(folds)} contiguous parts: every clip is tested once, by a model that never saw it."
    share = clips["split"].value_counts(normalize=True)
    parts = [f"{100 * share[name]:.0f} % {name}" for name in SPLIT_COLOURS if name in share]
    held = results.setting("split.hold_out")
    how = (
        "held out: " + "; ".join(f"{k} {listed(map(str, v))}" for k, v in held.items())
        if held
        else f"split by {results.setting('split.by', 'run')}"
    )
    guard = f", {results.setting('split.guard_s', 0):g} s unused at every border" if "guard" in share else ""
    if results.setting("split.by") == "subject" or set(held or ()) == {"subject"}:
        return f"Clips: {listed(parts)} ({how}{guard}). The test people are unseen; what they watched was seen by others."
    both = clips[clips["split"] != "guard"].groupby("clip_id")["split"].nunique()
    leak = (
        f" {plural(int((both > 1).sum()), 'clip')} lie in more than one part: this is leakage."
        if (both > 1).any()
        else " No clip lies in more than one part."
    )
    return f"Clips: {listed(parts)} ({how}{guard}).{leak}"


def _layouts(clips: pd.DataFrame, columns: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """Runs that look alike are drawn once: label and clips of each different run layout."""
    layouts: dict[tuple, tuple[list[str], str, pd.DataFrame]] = {}
    for (subject, session, task, run), part in clips.groupby(
        ["subject", "session", "task", "run"], sort=True
    ):
        part = part.sort_values("onset_s")
        name = " ".join(f"{k}-{v}" for k, v in (("ses", session), ("task", task), ("run", run)) if v)
        signature = (name, *zip(part["onset_s"].round(2), *(part[c] for c in columns), strict=True))
        subjects, _, _ = layouts.setdefault(signature, ([], name, part))
        subjects.append(subject)
    everyone = clips["subject"].nunique()
    return [
        (
            f"{'all subjects' if len(s) == everyone > 2 else 'sub-' + listed(s, 4)} · {n or 'only run'}",
            part,
        )
        for s, n, part in layouts.values()
    ]


def _time_line(clips: pd.DataFrame) -> Picture:
    columns = split_columns(clips)
    layouts = _layouts(clips, columns)
    left_out = max(0, len(layouts) - _MOST_ROWS)
    layouts = layouts[:_MOST_ROWS]
    lane = 0.72 / len(columns)
    with drawing(9.2, 1.0 + (0.24 + 0.07 * (len(columns) - 1)) * len(layouts)) as figure:
        ax = figure.subplots()
        for y, (_, part) in enumerate(layouts):
            bars = list(zip(part["onset_s"] / 60, part["duration_s"] / 60, strict=True))
            for k, column in enumerate(columns):
                colours = [SPLIT_COLOURS.get(s, MUTED) for s in part[column]]
                ax.broken_barh(
                    bars, (y - 0.36 + k * lane, lane * 0.94), facecolors=colours, edgecolor="white", lw=0.25
                )
        ax.set_yticks(range(len(layouts)), [label for label, _ in layouts], fontsize=8)
        ax.set_ylim(len(layouts) - 0.4, -0.6)
        ax.set_xlabel("minutes into the run")
        ax.grid(visible=False, axis="y")
        used = [s for s in SPLIT_COLOURS if any((clips[c] == s).any() for c in columns)]
        handles = [Patch(color=SPLIT_COLOURS[s], label=s) for s in used]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(used))
        caption = "The split on the time line of the runs; a bar is a clip."
        if len(columns) > 1:
            caption += f" The {len(columns)} thin lanes of a run are the folds."
        if left_out:
            caption += f" {left_out} further run layouts are not drawn."
        counts = clips[columns[0]].value_counts()
        alt = f"Time lines of {len(layouts)} run layouts with clips coloured by split: " + listed(
            f"{counts[s]} {s}" for s in used if s in counts
        )
        return picture(figure, alt + ".", caption)


def _per_subject(clips, runs, presentations) -> list[list[str]]:
    source = clips if clips is not None else runs
    if source is None:
        return []
    rows = []
    for subject in sorted(source["subject"].unique()):
        mine = {
            name: found[found["subject"] == subject] if found is not None else None
            for name, found in (("clips", clips), ("runs", runs), ("shown", presentations))
        }
        who = mine["runs"] if mine["runs"] is not None and len(mine["runs"]) else mine["clips"]
        minutes = "–" if mine["shown"] is None else f"{mine['shown']['duration'].sum() / 60:.1f}"
        columns = split_columns(clips) if clips is not None else []
        parts = [
            "–"
            if mine["clips"] is None
            else " / ".join(str(int((mine["clips"][c] == s).sum())) for c in columns)
            for s in SPLIT_COLOURS
        ]
        n_runs = len(who.drop_duplicates(["session", "task", "run"]))
        rows.append([f"sub-{subject}", str(who["session"].nunique()), str(n_runs), minutes, *parts])
    return rows
