"""Films seen relative to their surround: chosen where brains are high-passed, and the same on every way to the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuroalign.models.model import NeuroAlign
from neuroalign.models.score import score_pairs
from neuroalign.models.trained import load
from neuroalign.pairs.blind import blind
from neuroalign.pairs.store import read_video, write_video
from neuroalign.pairs.variants import change_pairs
from neuroalign.pairs.windows import video_surround
from neuroalign.training.data import fit_scalers, to_tensors
from neuroalign.training.linear_start import choose_surround
from neuroalign.training.ntcl import architecture_of, train_ntcl
from neuroalign.training.seeds import seeded
from neuroalign.training.validation import retrieval
from neuroalign.video.shards import Embedding

GEOMETRY = {
    "duration_s": 4.0,
    "step_s": 1.0,
    "surround_s": 10.0,
    "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]},
}


def with_slow_films(pairs, seen: bool, size: float = 3.0):
    """What films show all along is in their features and their surround, but not in brains (`seen`: false), or only in name."""
    rng = np.random.default_rng(7)
    levels, surround = {}, {}
    for name, data in pairs.video.levels.items():
        slow = size * rng.standard_normal((len(data), data.shape[2])).astype(np.float32)
        levels[name] = data if seen else data + slow[:, None]
        surround[name] = slow
    share = np.ones(len(pairs.video.clip_ids), np.float32)
    return replace(pairs, video=replace(pairs.video, levels=levels, surround=surround, surround_share=share))


def chosen(pairs, config) -> float:
    scalers = fit_scalers(pairs, config.encoder)
    with seeded(0) as generator:
        network = NeuroAlign(architecture_of(pairs, scalers, config))
        return choose_surround(network, to_tensors(pairs, scalers), generator)


@pytest.fixture(scope="module")
def films(make_pairs):
    return make_pairs(subjects=2, clips=(90, 25, 40), noise=2.0)


def test_it_is_taken_away_where_the_brain_does_not_see_it(films, tiny):
    config = tiny().ntcl
    assert chosen(with_slow_films(films, seen=False), config) == 1.0
    assert chosen(with_slow_films(films, seen=True), config) == 0.0


def test_it_pays_and_goes_every_way_to_the_network(films, tiny, tmp_path):
    pairs = with_slow_films(films, seen=False)
    quality = {}
    for name, surround in (("auto", "auto"), ("none", 0.0)):
        encoder = {"dim": 16, "depth": 1, "heads": 2, "surround": surround}
        config = tiny({"epochs": 1, "encoder": encoder})
        train_ntcl(pairs, tmp_path / name, config, 0, made_by={}, geometry=GEOMETRY)
        model = load(tmp_path / name)
        assert model.scalers.surround == (1.0 if name == "auto" else 0.0)
        ids = pairs.clips["clip_id"].to_numpy()
        quality[name] = np.mean(
            [
                retrieval(parts["fused"], np.array([gallery.index(c) for c in ids[rows]]))["quality"]
                for rows, gallery, parts in score_pairs(model, pairs).values()
            ]
        )
    assert quality["auto"] > quality["none"] + 0.1
    model, level = load(tmp_path / "auto"), "early"
    scaler = model.scalers.video[level]
    by_hand = (pairs.video.levels[level] - pairs.video.surround[level][:, None]) / scaler.std @ scaler.matrix
    made = model.video_input(pairs.video.levels, pairs.video.surround, pairs.video.surround_share)
    np.testing.assert_allclose(made[level].numpy(), by_hand, atol=1e-4)


def test_clips_of_a_film_are_embedded_as_their_pairs_are(films, tiny, tmp_path):
    """Cut out of a film's features, clips are what they are in pairs."""
    rng = np.random.default_rng(0)
    times = np.arange(0.5, 120, 1.0)
    dims = {name: x.shape[2] for name, x in films.video.levels.items()}
    film = Embedding(
        {n: rng.standard_normal((len(times), d)).astype(np.float32) for n, d in dims.items()}, times
    )
    pairs = with_slow_films(films, seen=False)
    train_ntcl(pairs, tmp_path, tiny({"epochs": 1}), 0, made_by={}, geometry=GEOMETRY)
    model, starts = load(tmp_path), np.array([0.0, 40.0, 116.0])
    around, share = video_surround(film, starts, 4.0, 10.0)
    windows = replace(
        pairs.video.select(np.arange(3)),
        levels={n: np.stack([x[int(s) : int(s) + 4] for s in starts]) for n, x in film.levels.items()},
        surround=around,
        surround_share=share,
    )
    np.testing.assert_allclose(
        model.embed_video(film, starts).pooled, model.embed_video(windows).pooled, rtol=1e-4, atol=1e-5
    )


def test_training_sees_no_surround_of_test_clips(films):
    pairs = with_slow_films(films, seen=False)
    hidden = blind(pairs)
    test = pairs.video.rows_of(pairs.clips.loc[pairs.clips["split"] == "test", "clip_id"].unique())
    kept = pairs.video.rows_of(pairs.clips.loc[pairs.clips["split"] == "train", "clip_id"].unique())
    for name, x in hidden.video.surround.items():
        assert np.isnan(x[test]).all()
        np.testing.assert_array_equal(x[kept], pairs.video.surround[name][kept])


def test_it_is_kept_on_disk_and_when_levels_are_merged(films, tiny, tmp_path):
    pairs = with_slow_films(films, seen=False)
    write_video(tmp_path / "video.h5", pairs.video)
    read = read_video(tmp_path / "video.h5")
    for name, x in pairs.video.surround.items():
        np.testing.assert_array_equal(read.surround[name], x)
    merged = change_pairs(pairs, "merged", 0)
    assert merged.video.surround["all"].shape[1] == merged.video.levels["all"].shape[2]
    train_ntcl(merged, tmp_path / "merged", tiny({"epochs": 1}), 0, made_by={}, geometry=GEOMETRY)
    assert load(tmp_path / "merged").scalers.surround == 1.0


def test_without_decorrelation_noise_counts_as_white(films, tiny, tmp_path):
    encoder = {"dim": 16, "depth": 1, "heads": 2, "decorrelate": False}
    train_ntcl(films, tmp_path, tiny({"epochs": 1, "encoder": encoder}), 0, made_by={}, geometry=GEOMETRY)
    layer = load(tmp_path).network.haemodynamic
    assert torch.equal(layer.noise[:, 0], torch.ones(len(layer.noise)))
    assert float(layer.noise[:, 1:].abs().max()) == 0.0
