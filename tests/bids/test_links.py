"""Links among the stimuli: where they may lead, from the events to the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuroalign.bids.links import strays


@pytest.fixture
def dataset(tmp_path):
    """A dataset with one film, a file outside of it, and an annex."""
    root = tmp_path / "data"
    (root / "stimuli").mkdir(parents=True)
    (root / "stimuli/film.mp4").write_text("film")
    (root / "sourcedata").mkdir()
    (root / "sourcedata/raw.mp4").write_text("raw")
    (root / ".git/annex/objects/aa/key").mkdir(parents=True)
    (root / ".git/annex/objects/aa/key/key.mp4").write_text("annexed")
    (tmp_path / "private.mp4").write_text("private")
    return root


def _strays(root: Path, *names: str, stimuli: Path | None = None) -> list[str]:
    folder = stimuli or root / "stimuli"
    return list(strays([str(folder / name) for name in names], folder, root).values())


@pytest.mark.parametrize(
    "target",
    ["film.mp4", "../sourcedata/raw.mp4", "../.git/annex/objects/aa/key/key.mp4", "../stimuli/film.mp4"],
)
def test_links_inside_the_dataset_are_followed(dataset, target):
    (dataset / "stimuli/link.mp4").symlink_to(target)
    assert _strays(dataset, "link.mp4", "film.mp4") == []


@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_out_of_the_dataset_is_refused(dataset, absolute):
    target = dataset.parent / "private.mp4"
    (dataset / "stimuli/link.mp4").symlink_to(target if absolute else "../../private.mp4")
    [sentence] = _strays(dataset, "link.mp4", "film.mp4")
    assert str(target) in sentence
    assert "dataset.stimuli_dir" in sentence


def test_a_chain_of_links_counts_by_its_end(dataset):
    (dataset / "stimuli/second.mp4").symlink_to("../../private.mp4")
    (dataset / "stimuli/first.mp4").symlink_to("second.mp4")
    assert len(_strays(dataset, "first.mp4")) == 1


def test_a_folder_that_is_a_link_out_is_refused(dataset):
    (dataset.parent / "elsewhere").mkdir()
    (dataset.parent / "elsewhere/a.mp4").write_text("a")
    (dataset / "stimuli/sub").symlink_to("../../elsewhere")
    assert len(_strays(dataset, "sub/a.mp4")) == 1


def test_a_neighbour_whose_name_begins_alike_is_outside(dataset):
    (dataset.parent / "data-private").mkdir()
    (dataset.parent / "data-private/a.mp4").write_text("a")
    (dataset / "stimuli/link.mp4").symlink_to("../../data-private/a.mp4")
    assert len(_strays(dataset, "link.mp4")) == 1


def test_the_stimuli_folder_itself_may_be_a_link(dataset, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mp4").write_text("a")
    (dataset / "stimuli2").symlink_to(tmp_path / "films")
    assert _strays(dataset, "a.mp4", stimuli=dataset / "stimuli2") == []


def test_an_annexed_stimuli_folder_of_another_repository(dataset, tmp_path):
    films = tmp_path / "films"
    (films / ".git/annex/objects/bb").mkdir(parents=True)
    (films / ".git/annex/objects/bb/a.mp4").write_text("a")
    (films / "stimuli").mkdir()
    (films / "stimuli/a.mp4").symlink_to("../.git/annex/objects/bb/a.mp4")
    assert _strays(dataset, "a.mp4", stimuli=films / "stimuli") == []
    # But not the rest of that repository, nor the annex of yet another.
    (films / "b.mp4").write_text("b")
    (films / "stimuli/b.mp4").symlink_to("../b.mp4")
    (films / "stimuli/c.mp4").symlink_to(dataset.parent / "private.mp4")
    assert len(_strays(dataset, "b.mp4", "c.mp4", stimuli=films / "stimuli")) == 2


def test_what_is_not_there_is_left_to_others(dataset):
    (dataset / "stimuli/gone.mp4").symlink_to("../.git/annex/objects/none.mp4")
    assert _strays(dataset, "gone.mp4", "none.mp4") == []
