"""The grouped table: every group in order, costs in words, and the tuning budget as the baselines wrote it."""

from __future__ import annotations

import pandas as pd
import pytest

from neuroalign.report import summary
from neuroalign.report.results import Results
from neuroalign.report.style import model_name


@pytest.fixture(scope="module")
def section(made):
    return summary.section(Results(made.output, made.config))


def test_costs_are_told_only_where_the_interval_leaves_out_zero(section):
    text = " ".join(section.reading)
    assert (
        "Shown to help, with what they add in points of top-1 (both directions averaged): L_time (+4.0)."
        in text
    )
    assert (
        "Not shown to matter on these data (the interval holds zero in both directions): L_pred (-0.1)."
        in text
    )
    assert "Shown to do harm" not in text
    assert "needs at least five people and is left out here" in text
    assert "the t interval of the mean over 2 seeds" in text


def test_parts_of_quantisation_are_also_judged_by_the_quantised_score():
    rows = {"group": "ablation", "metric": "top1", "difference": -0.05, "difference_low": -0.09}
    models = ("neuroalign_without_depth_quantised", "neuroalign_without_time_quantised")
    table = pd.DataFrame([rows | {"model": m, "difference_high": -0.01} for m in models])
    (sentence,) = summary.cost_sentences(table)
    assert sentence.endswith("residual depth by the quantised part (+5.0).")


def test_harm_is_called_harm():
    rows = {"group": "ablation", "model": "neuroalign_without_vq", "metric": "top1", "difference": 0.05}
    table = pd.DataFrame([rows | {"difference_low": 0.01, "difference_high": 0.09}])
    assert summary.cost_sentences(table) == ["Shown to do harm on these data: vector quantisation (-5.0)."]


def test_groups_come_in_order_and_numbers_as_they_are(section):
    first = section.blocks[0]
    assert list(dict.fromkeys(row[0] for row in first.rows)) == list(summary.GROUPS.values())
    row = next(r for r in first.rows if r[1] == "NeuroAlign without L_time")
    assert row[3] == "12.0\xa0%"
    assert row[6] == "–", "no interval over people"
    assert row[8] == "-4 points (-5.5 to -2.5)"


def test_the_budget_is_what_the_baselines_wrote(section):
    table = next(b for b in section.blocks if b.caption == "How hard the baselines were tuned")
    assert table.rows == [["ridge", "22", "the stars", "lags 3 4.5 s, alpha 3.2"]]


def test_ablations_have_names_for_people():
    assert (
        model_name("neuroalign_without_dynamic_quantised")
        == "NeuroAlign without dynamic weights, quantised part"
    )
