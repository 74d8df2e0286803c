"""The report's section on the stimuli: a picture of each, or of some, and the way to their pages."""

from __future__ import annotations

from neuroalign.plan_stimuli import MOST_IN_REPORT
from neuroalign.report.results import Results
from neuroalign.report.stimuli_overview import numbers_table, read_seen, sentences, sheet
from neuroalign.report.style import Links, Section


def section(results: Results) -> Section:
    """How much film there is and how it is cut, pictures that lead to the pages, and a table."""
    out = Section("stimuli", "Stimuli")
    folder = results.root / "quality" / "stimuli"
    files = sorted(folder.glob("*.json"))
    shown = results.table("index/presentations.tsv")
    if shown is not None:
        # Pages of stimuli that an earlier configuration used may still lie there.
        files = [f for f in files if f.stem in set(shown["stimulus"])]
    if not files:
        out.absent.append(
            "There are no pages of stimuli (quality/stimuli/), so what was shown is not described here."
        )
        return out
    seen = read_seen(files)
    out.reading += sentences(seen)
    # The report lies in `report/` beside them: a copy of the results folder keeps the links.
    out.blocks.append(sheet(seen, "../quality/stimuli", MOST_IN_REPORT))
    overview = results.root / "quality" / "stimuli.html"
    if len(seen) > MOST_IN_REPORT and overview.is_file():
        out.blocks.append(Links("A page with all of them:", [("all stimuli", "../quality/stimuli.html")]))
    else:
        out.blocks.append(numbers_table(seen))
    return out
