"""The sentences follow the numbers, also when the numbers are bad."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from neuroalign.evaluation import controls as evaluated_controls
from neuroalign.evaluation import evaluate
from neuroalign.io import read_tsv, write_json, write_tsv
from neuroalign.report import bold_quality, codes, controls, dataset, delays, gallery, retrieval, training
from neuroalign.report.results import Results, above_chance, headline_rows, over_seeds
from neuroalign.report.style import listed, percent, plural
from neuroalign.report.thumbnails import ClipPictures, clock


def results_with(folder, config=None, **tables) -> Results:
    for name, table in tables.items():
        write_tsv(folder / name.replace("__", "/").replace("-tsv", ".tsv"), table)
    return Results(folder, config or {})


# --- the verdict ----------------------------------------------------------------------------------------------


def test_a_model_above_chance_is_said_to_be(kit):
    rows = headline_rows(kit.metric_rows({"neuroalign": 0.2}), model="neuroalign")
    assert "in both directions in all 3 subjects" in retrieval.verdict(rows)


def test_a_model_at_chance_is_said_to_be(kit):
    rows = headline_rows(kit.metric_rows({"neuroalign": 0.025}), model="neuroalign")
    text = retrieval.verdict(rows)
    assert text.startswith("At chance: the fused model does not beat chance")
    assert "nor when pooled" in text


def test_only_the_pool_above_chance_is_not_a_success_of_the_subjects(kit):
    rows = headline_rows(kit.metric_rows({"neuroalign": 0.2}), model="neuroalign")
    rows.loc[rows["subject"] != "all", "ci_low"] = 0.0
    text = retrieval.verdict(rows)
    assert text.startswith("At chance")
    assert "pooled over subjects it does for fMRI → video and video → fMRI" in text


def test_a_mixed_result_names_who_fails_and_where(kit):
    rows = headline_rows(kit.metric_rows({"neuroalign": 0.2}), model="neuroalign")
    fails = (rows["subject"] == "02") & (rows["direction"] == "video_to_fmri")
    rows.loc[fails, ["ci_low", "p_value"]] = 0.0, 0.4
    text = retrieval.verdict(rows)
    assert text.startswith(
        "Mixed: fMRI → video beats chance (top-1) in 3 of 3 subjects, video → fMRI beats chance"
    )
    assert "not in both directions for sub-02; pooled" in text
    rows.loc[rows["subject"] != "01", "ci_low"] = 0.0
    assert retrieval.verdict(rows).startswith("Mostly at chance: ")


def test_an_interval_above_chance_with_a_poor_p_value_does_not_count():
    assert above_chance({"ci_low": 0.1, "chance": 0.05, "p_value": 0.01})
    assert not above_chance({"ci_low": 0.1, "chance": 0.05, "p_value": 0.2})
    assert not above_chance({"ci_low": 0.04, "chance": 0.05, "p_value": 0.01})
    assert not above_chance({"ci_low": np.nan, "chance": 0.05, "p_value": np.nan})


# --- parts, baselines, controls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fused", "continuous", "quantised", "said"),
    [
        (0.2, 0.15, 0.1, "quantisation helps"),
        (0.15, 0.15, 0.1, "gains nothing from it"),
        (0.12, 0.15, 0.1, "quantisation does not help on these data; the continuous part alone does better"),
        (0.15, 0.1, 0.18, "the quantised part alone is the better one"),
    ],
)
def test_quantisation_is_praised_only_where_it_helps(kit, fused, continuous, quantised, said):
    models = {"neuroalign": fused, "neuroalign_continuous": continuous, "neuroalign_quantised": quantised}
    assert said in retrieval.quantisation_sentence(headline_rows(kit.metric_rows(models), subject="all"))


def test_a_gain_within_its_uncertainty_is_not_praised(kit):
    models = {"neuroalign": 0.2, "neuroalign_continuous": 0.19, "neuroalign_quantised": 0.1}
    full = headline_rows(kit.metric_rows(models), subject="all")
    paired = kit.metric_rows({"neuroalign_continuous": 0.01}, name="model_b").assign(
        model_a="neuroalign", ci_low=-0.01
    )
    assert "not shown that quantisation helps" in retrieval.quantisation_sentence(full, paired)
    assert "quantisation helps on these" in retrieval.quantisation_sentence(full, paired.assign(ci_low=0.005))


def test_unused_quantised_part_is_named():
    assert "no weight" in retrieval.weights_sentence([{"alpha": 0.7, "beta": 0.0}])
    assert "no weight" not in retrieval.weights_sentence([{"alpha": 0.5, "beta": 0.3}])


@pytest.mark.parametrize(
    ("fused", "low", "high", "said"),
    [
        (0.2, 0.01, 0.09, "captions help on these data"),
        (0.2, -0.01, 0.09, "not shown that captions help"),
        (0.1, -0.09, -0.01, "captions do harm"),
        (0.15, 0.0, 0.0, "captions do not change the ranking"),
    ],
)
def test_captions_are_praised_only_where_they_help(kit, fused, low, high, said):
    models = {"neuroalign": fused, "neuroalign_video_only": 0.15, "neuroalign_text": 0.07}
    full = headline_rows(kit.metric_rows(models), subject="all")
    paired = kit.metric_rows({"neuroalign_video_only": fused - 0.15}, name="model_b")
    paired = paired.assign(model_a="neuroalign", ci_low=low, ci_high=high)
    text = retrieval.text_sentence(full, paired)
    assert said in text
    assert f"captions alone reach {percent(0.075)}" in text


def test_the_weight_of_captions_is_told_only_of_models_that_read_them():
    assert "captions" not in retrieval.weights_sentence([{"alpha": 1.0, "beta": 0.0}])
    assert "captions got no weight" in retrieval.weights_sentence([{"alpha": 1.0, "beta": 0.0, "text": 0.0}])
    assert "added to the video 0.75 times" in retrieval.weights_sentence(
        [{"alpha": 1.0, "beta": 0.1, "text": 0.75}]
    )


def test_codes_of_three_modalities_are_drawn_and_told():
    rows = [
        ("high", 1, code, modality, count)
        for modality, counts in {"fmri": (5, 5, 0), "video": (5, 0, 5), "text": (0, 5, 5)}.items()
        for code, count in enumerate(counts)
    ]
    table = pd.DataFrame(rows, columns=["level", "depth", "code", "modality", "count"]).assign(
        branch="seed-0"
    )
    assert "fmri, video and text" in codes._modality_sentence(table)
    assert "Dots are text" in codes._by_modality(table).caption


def test_a_baseline_that_wins_is_named():
    text = controls.ranking_sentence(pd.Series({"pooled_cca": 0.2, "neuroalign": 0.1, "ridge": 0.05}))
    assert text.startswith("The fused model does not beat every baseline: pooled CCA does better (10.0")
    assert controls.ranking_sentence(pd.Series({"neuroalign": 0.3, "ridge": 0.1})).startswith(
        "The fused model stands above"
    )


def test_a_lead_within_its_uncertainty_is_not_a_victory(kit):
    mean = pd.Series({"neuroalign": 0.21, "pooled_cca": 0.2})
    paired = kit.metric_rows({"pooled_cca": 0.01}, name="model_b").assign(model_a="neuroalign", ci_low=-0.01)
    assert "not clearly better than the best baseline, pooled CCA" in controls.ranking_sentence(mean, paired)
    assert "stands above" in controls.ranking_sentence(mean, paired.assign(ci_low=0.005))


def test_differences_are_counted_by_what_their_intervals_leave_out():
    rows = pd.DataFrame(
        {
            "direction": "fmri_to_video",
            "ci_low": [0.01, -0.05, -0.01],
            "ci_high": [0.1, -0.01, 0.02],
            "difference": [0.05, -0.03, 0.0],
        }
    )
    assert "fMRI → video: better than 1, worse than 1, undecided against 1" in controls.difference_sentence(
        rows
    )


def test_a_control_above_chance_is_a_warning(kit):
    rows = kit.control_rows().astype({"passed": str})
    assert controls.control_sentences(rows)[0].startswith("At chance, as they must be")
    rows.loc[(rows["control"] == "shifted") & (rows["subject"] == "02"), "passed"] = "False"
    rows.loc[rows["control"] == "low_level", "passed"] = "False"
    text = " ".join(controls.control_sentences(rows))
    assert "Warning: brain series shifted in time lies above chance in sub-02" in text
    assert "Low-level content does as well as the model" in text
    assert "At chance, as they must be: shuffled pairing and only the time of the clip." in text


# --- delays, training, codes, quality ----------------------------------------------------------------------------


def test_delays_out_of_order_are_said_to_be():
    levels = ["early", "high"]
    learned = pd.DataFrame({"subject": "all", "level": levels, "mean": [6.0, 5.0]})
    truth = pd.DataFrame({"subject": "all", "level": levels, "delay_s": [4.5, 6.0]})
    assert "do not stand in the true order" in delays.order_sentence(learned, truth, levels)
    assert "do not rise" in delays.order_sentence(learned, None, levels)


def sweep_table(folder, high_clear: bool = True) -> None:
    """Curves of two folds with their tops at 4.5 and 6 s (fold 1: 5 and 6 s)."""
    rows = [
        (fold, level, lag, height - 0.01 * (lag - top) ** 2, own, lag == top)
        for fold in (0, 1)
        for level, top, height, own in (
            ("all levels", 5.0, 0.3, True),
            ("early", 4.5 + 0.5 * fold, 0.4, True),
            ("high", 6.0 if high_clear else 5.0, 0.2 if high_clear else 0.01, high_clear),
        )
        for lag in np.arange(2.0, 9.5, 0.5)
    ]
    columns = ["fold", "level", "lag_s", "r", "own", "chosen"]
    write_tsv(folder / "pairs" / "lag_sweep.tsv", pd.DataFrame(rows, columns=columns))


def test_a_swept_lag_is_shown_with_its_curve_and_the_truth(tmp_path):
    sweep_table(tmp_path)
    true = [("01", "early", 4.0), ("01", "high", 6.5)]
    write_tsv(tmp_path / "truth" / "delays.tsv", pd.DataFrame(true, columns=["subject", "level", "delay_s"]))
    settings = {"hrf": {"method": "shift", "shift_s": "sweep"}}
    section = delays.section(Results(tmp_path, settings, tmp_path / "truth"))
    text = " ".join(section.reading)
    assert not section.absent
    assert "4.50–5.00 s (early) and 6.00 s (high)" in text
    # Errors are 0.5 and 1 s (early), 0.5 s twice (high).
    assert "off by 0.62 s on average (1.00 s at most)" in text
    assert "does not predict" not in text
    figure, rows = section.blocks
    assert "early 4.50–5.00 s" in figure.alt
    assert [row[1] for row in rows.rows] == ["all levels", "early", "high"] * 2


def test_a_level_that_is_read_at_the_common_lag_is_named(tmp_path):
    sweep_table(tmp_path, high_clear=False)
    section = delays.section(Results(tmp_path, {"hrf": {"method": "shift", "shift_s": "sweep"}}))
    assert "does not predict high clearly" in " ".join(section.reading)
    assert "true time to peak" not in " ".join(section.reading)


def test_the_curves_of_an_earlier_sweep_are_not_shown(tmp_path):
    sweep_table(tmp_path)
    assert delays.section(Results(tmp_path, {"hrf": {"method": "shift", "shift_s": 5.0}})).absent


def test_delays_that_are_not_learned_are_explained(tmp_path):
    section = delays.section(Results(tmp_path, {"hrf": {"method": "shift"}}))
    assert section.absent == [
        "No delay is learned: hrf.method is 'shift', so brain and video already share a clock."
    ]


def history(values, term="mrr", split="validation", start=0):
    return pd.DataFrame(
        {"epoch": range(start, start + len(values)), "split": split, "term": term, "value": values}
    )


def test_training_that_never_helped_is_said_to():
    assert "never improved on its start" in training.stage_sentence("Stage 1", history([0.3, 0.2, 0.1]))
    assert "still improving" in training.stage_sentence("Stage 1", history([0.1, 0.2, 0.3]))
    assert "0.100 to 0.400 at epoch 2 (last epoch 3)." in training.stage_sentence(
        "Stage 1", history([0.1, 0.2, 0.4, 0.3])
    )
    assert "at epoch 1" in training.stage_sentence("Stage 1", history([2.0, 1.0, 3.0], term="total"))


def test_both_parts_choose_the_epoch_of_stage_two():
    both = pd.concat([history([0.1, 0.5, 0.2], "continuous_mrr"), history([0.1, 0.1, 0.6], "quantised_mrr")])
    assert training.criterion(both) == ["continuous_mrr", "quantised_mrr"]
    assert "to 0.400 at epoch 2" in training.stage_sentence("Stage 2", both)


def test_codes_shared_no_more_than_by_chance_are_said_to_be(tmp_path):
    usage = pd.DataFrame(
        {
            "epoch": [1],
            "level": ["early"],
            "depth": [1],
            "perplexity": [20.0],
            "used_share": [0.5],
            "same_code_share": [0.06],
            "same_code_chance": [0.05],
        }
    )
    config = {"train": {"seeds": [0], "vq": {"codes": 64}}}
    results = results_with(tmp_path, config, **{"models__seed-0__vq__usage-tsv": usage})
    text = codes.section(results, ClipPictures(results)).reading[0]
    assert "6.0\N{NO-BREAK SPACE}% (early) of paired" in text
    assert "codes drawn at random would agree in 5.0\N{NO-BREAK SPACE}%" in text
    assert "carry little alignment" in text


def test_damaged_quality_files_are_named_not_fatal(kit, tmp_path):
    kit.write_quality(
        tmp_path / "roi" / "sub-01_qc.h5", "sub-01", "01", images=True, rng=np.random.default_rng(0)
    )
    (tmp_path / "roi" / "sub-02_qc.h5").write_bytes(b"not HDF5")
    section = bold_quality.section(Results(tmp_path, {}))
    assert section.absent == ["The quality file of one run could not be read: sub-02_qc.h5."]
    assert [b.kind for b in section.blocks].count("picture") == 3


def test_series_without_images_or_motion_still_have_carpets(kit, tmp_path):
    kit.write_quality(
        tmp_path / "roi" / "sub-01_qc.h5", "sub-01", "01", images=False, rng=np.random.default_rng(0)
    )
    section = bold_quality.section(Results(tmp_path, {}))
    assert len(section.absent) == 2
    assert "region" not in section.reading[0]
    assert [b.kind for b in section.blocks] == ["picture", "table"]


# --- what went in, and the gallery -------------------------------------------------------------------------------


def test_leakage_is_said(kit, tmp_path):
    clips = kit.clip_table()
    clips.loc[0, "split"] = "test"
    text = dataset.section(results_with(tmp_path, **{"pairs__clips-tsv": clips})).reading[1]
    assert "1 clip lie in more than one part: this is leakage." in text


def test_folds_are_drawn_as_lanes(kit, tmp_path):
    clips = kit.clip_table().assign(split_0="test", split_1="train")
    section = dataset.section(results_with(tmp_path, **{"pairs__clips-tsv": clips}))
    assert section.reading[1].startswith("Cross-validation over 2 contiguous parts")
    assert "2 thin lanes" in section.blocks[0].caption


def test_examples_are_spread_over_subjects_and_ranks():
    rng = np.random.default_rng(0)
    rankings = pd.DataFrame(
        {"subject": np.repeat(["01", "02", "03"], 50), "rank": np.tile(np.arange(1, 51.0), 3)}
    )
    rankings = rankings.iloc[rng.permutation(len(rankings))]
    chosen = gallery.choose(rankings, 9)
    assert len(set(chosen.index)) == 9
    assert set(zip(chosen["subject"], chosen["place"], strict=True)) == {
        (s, p) for s in ("01", "02", "03") for p in ("good", "median", "bad")
    }
    for place, rank in (("good", 6), ("median", 25), ("bad", 45)):
        assert abs(chosen[chosen["place"] == place]["rank"] - rank).max() <= 1


@pytest.mark.parametrize(("queries", "count"), [(0, 4), (2, 6), (5, 0)])
def test_examples_never_exceed_the_queries(queries, count):
    rankings = pd.DataFrame({"subject": ["01"] * queries, "rank": np.arange(queries, dtype=float)})
    chosen = gallery.choose(rankings, count)
    assert len(chosen) == min(queries, count)
    assert chosen.index.is_unique


def test_thumbnails_show_the_true_clip_of_the_video(kit, tmp_path):
    av = pytest.importorskip("av")
    clips = kit.clip_table()
    write_tsv(tmp_path / "pairs" / "clips.tsv", clips)
    (tmp_path / "stimuli").mkdir()
    with av.open(str(tmp_path / "stimuli" / "film-1.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for frame in range(160):
            picture = np.full((72, 128, 3), [255, 0, 0] if frame < 80 else [0, 0, 255], np.uint8)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        video.mux(stream.encode())
    pictures = ClipPictures(Results(tmp_path, {}))
    pictures.load(["film-1@0", "film-1@12", "film-2@0", "unknown"])
    assert pictures.any_video
    red, blue = (_mean_colour(pictures.clip(c).src) for c in ("film-1@0", "film-1@12"))
    assert red[0] > 180 > 60 > red[2]
    assert blue[2] > 180 > 60 > blue[0]
    tile = pictures.clip("film-2@0", correct=True)
    assert (tile.src, tile.label) == (None, "film-2 0:00–0:04")
    assert tile.alt.startswith("Time tile of film-2")
    assert pictures.clip("unknown").label == "unknown"


def _mean_colour(source: str) -> np.ndarray:
    image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
    return np.asarray(image.convert("RGB"), float).mean(axis=(0, 1))


# --- small things ------------------------------------------------------------------------------------------------


def test_seeds_are_summarised_once(kit):
    first, second = (kit.metric_rows({"neuroalign": v}, seed=s) for v, s in ((0.1, "0"), (0.2, "1")))
    mean = over_seeds(pd.concat([first, second], ignore_index=True))
    assert len(mean) == len(first)
    np.testing.assert_allclose(mean["value"].to_numpy(), (first["value"] + second["value"]).to_numpy() / 2)
    other = kit.metric_rows({"ridge": 0.1})
    both = over_seeds(pd.concat([first, second, other], ignore_index=True))
    assert both["model"].value_counts().tolist() == [len(first), len(other)]
    summary = kit.metric_rows({"neuroalign": 0.3}, seed="all")
    assert (
        over_seeds(pd.concat([first, second, summary], ignore_index=True))["value"].tolist()
        == summary["value"].tolist()
    )


def test_the_synthetic_tables_have_the_evaluators_columns(kit, made):
    expected = {
        "metrics": evaluate.METRIC_COLUMNS,
        "comparisons": evaluate.COMPARISON_COLUMNS,
        "ceilings": evaluate.CEILING_COLUMNS,
        "rankings": evaluate.RANKING_COLUMNS,
        "controls": evaluated_controls.COLUMNS,
    }
    for name, columns in expected.items():
        assert sorted(read_tsv(made.output / "evaluation" / f"{name}.tsv").columns) == sorted(columns)


def test_small_formats():
    assert percent(0.1234) == "12.3\N{NO-BREAK SPACE}%"
    assert percent(float("nan")) == "–"
    assert listed(["a"]) == "a"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"
    assert listed([]) == "none"
    assert plural(1, "query", "queries") == "1 query"
    assert plural(1200, "query", "queries") == "1,200 queries"
    assert [clock(v) for v in (0, 75.5, 59.96)] == ["0:00", "1:15.5", "1:00"]


# --- what went in ---------------------------------------------------------------------------------------------


def test_dropped_clips_are_named_with_their_reason(tmp_path):
    write_json(tmp_path / "pairs" / "summary.json", {"dropped_brain": 74, "dropped_video": 0})
    clips = pd.DataFrame(
        {
            **{"clip_id": ["a", "b", "c"], "stimulus": "film", "start_s": [0.0, 4.0, 8.0], "duration_s": 4.0},
            **{
                "subject": ["01", "01", "02"],
                "session": "",
                "task": "film",
                "run": "1",
                "onset_s": [6.0, 10.0, 14.0],
            },
            **{"split": ["train", "validation", "test"], "group": "g", "repeat": 0},
        }
    )
    write_tsv(tmp_path / "pairs" / "clips.tsv", clips)
    text = " ".join(dataset.section(Results(tmp_path, {})).reading)
    assert "Left out: 74 clips had too few uncensored volumes." in text


def test_shared_content_is_no_leak_where_the_question_is_the_unseen_person(tmp_path):
    clips = pd.DataFrame(
        {
            **{
                "clip_id": "a",
                "stimulus": "film",
                "start_s": 0.0,
                "duration_s": 4.0,
                "subject": ["01", "02", "03"],
            },
            **{
                "session": "",
                "task": "film",
                "run": "1",
                "onset_s": 6.0,
                "group": ["01", "02", "03"],
                "repeat": 0,
            },
            "split": ["train", "validation", "test"],
        }
    )
    write_tsv(tmp_path / "pairs" / "clips.tsv", clips)
    leaky = " ".join(dataset.section(Results(tmp_path, {"split": {"by": "run"}})).reading)
    fine = " ".join(dataset.section(Results(tmp_path, {"split": {"by": "subject"}})).reading)
    assert "leakage" in leaky
    assert "leakage" not in fine
    assert "unseen" in fine


def test_pages_of_runs_are_linked_beside_the_report(kit, tmp_path):
    rng = np.random.default_rng(0)
    for run in ("sub-01_task-film", "sub-02_task-film"):
        kit.write_quality(tmp_path / f"roi/{run}_qc.h5", run, run[4:6], images=False, rng=rng)
    assert not [b for b in bold_quality.section(Results(tmp_path, {})).blocks if b.kind == "links"]
    page = tmp_path / "quality/sub-02_task-film.html"
    page.parent.mkdir()
    page.touch()
    (links,) = [b for b in bold_quality.section(Results(tmp_path, {})).blocks if b.kind == "links"]
    assert links.links == [("sub-02_task-film", "../quality/sub-02_task-film.html")]
    # Wherever the results are copied to, the address leads from the report to the page.
    assert (tmp_path / "report" / links.links[0][1]).resolve() == page.resolve()


def test_a_damaged_film_and_what_it_cost_are_told(tmp_path):
    damage = {"film-1": {"at_s": 61.25, "reason": "the file is cut off", "clips": 14}}
    write_json(tmp_path / "pairs/summary.json", {"dropped_brain": 2, "missing_video": damage})
    clips = pd.DataFrame(
        {
            **{
                "clip_id": ["a"],
                "stimulus": ["film-1"],
                "start_s": [0.0],
                "duration_s": [4.0],
                "subject": ["01"],
            },
            **{"session": [""], "task": ["film"], "run": ["1"], "onset_s": [0.0], "split": ["train"]},
        }
    )
    told = dataset.section(results_with(tmp_path, **{"pairs__clips-tsv": clips})).reading
    assert "Left out: 2 clips had too few uncensored volumes." in told
    (careful,) = [sentence for sentence in told if "damaged" in sentence]
    assert careful.startswith(
        "Careful: the film 'film-1' is damaged and used only up to second 61.2 (the file is cut off);"
    )
    assert "14 clips that would need what comes after were left out" in careful
