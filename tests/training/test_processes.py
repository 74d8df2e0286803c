"""Two processes with half of every batch each are one process with all of it, through torchrun as in a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from neuroalign.config.train import Train
from neuroalign.errors import UserError
from neuroalign.training.launch import run_stage
from neuroalign.training.processes import ALONE, Processes

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}


def configured(tiny, processes: int, **options) -> Train:
    """No dropout, which differs between shares; codes that die and restart within the run."""
    encoder = {"dim": 16, "depth": 1, "heads": 2, "subject_rank": 2, "dropout": 0, "input_dropout": 0}
    first = {"epochs": 2, "batch_size": 24, "encoder": encoder, "patience": 9}
    second = {"epochs": 2, "batch_size": 24, "patience": 9, "revive_after": 2, "decay": 0.9, "depth": 2}
    return tiny(first, second).model_copy(update={"processes": processes, **options})


def both_stages(pairs: Path, branch: Path, config: Train) -> None:
    common = {"seed": 0, "made_by": {}, "log_file": branch.with_suffix(".log")}
    run_stage(
        "neuroalign.training.ntcl:train_ntcl",
        *(pairs, 0, config),
        **common,
        out=str(branch / "ntcl"),
        geometry=GEOMETRY,
    )
    run_stage(
        "neuroalign.training.vq:train_vq",
        *(pairs, 0, config),
        **common,
        ntcl_dir=str(branch / "ntcl"),
        out=str(branch / "vq"),
    )


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(make_pairs, on_disk, tiny, tmp_path):
    """23 windows in a batch of two shares; three people, one of whom has no window in some share."""
    pairs = on_disk(make_pairs(clips=(23, 9, 3), units=(9, 8, 7)), tmp_path / "pairs")
    one, two = tmp_path / "one", tmp_path / "two"
    both_stages(pairs, one, configured(tiny, 1))
    both_stages(pairs, two, configured(tiny, 2))
    for stage in ("ntcl", "vq"):
        a, b = (load_file(folder / stage / "model.safetensors") for folder in (one, two))
        assert set(a) == set(b)
        for name in a:
            # A bias of keys moves no attention: its gradient is rounding, which Adam scales up.
            atol = 1e-3 if name.endswith("qkv.bias") else 2e-6
            np.testing.assert_allclose(b[name], a[name], rtol=2e-5, atol=atol, err_msg=f"{stage} {name}")
        history = [pd.read_csv(folder / stage / "history.tsv", sep="\t") for folder in (one, two)]
        pd.testing.assert_frame_equal(*history, rtol=1e-4, atol=1e-6)
    usage = [pd.read_csv(folder / "vq" / "usage.tsv", sep="\t") for folder in (one, two)]
    pd.testing.assert_frame_equal(*usage)
    start = [load_file(folder / "ntcl" / "model.safetensors") for folder in (one, two)]
    moved = load_file(one / "vq" / "model.safetensors")
    books = [name for name in moved if name.endswith(".codes")]
    assert len(books) == 6
    assert not set(books) & set(start[0])


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_one_sentence(make_pairs, on_disk, tiny, tmp_path):
    pairs = make_pairs(clips=(12, 5, 3), subjects=2)
    pairs.clips["split"] = pairs.clips["split"].replace("validation", "test")
    folder = on_disk(pairs, tmp_path / "pairs")
    with pytest.raises(UserError, match="validation split holds no clip"):
        both_stages(folder, tmp_path / "model", configured(tiny, 2))


@pytest.mark.parametrize(("visible", "device"), [(0, "cuda"), (1, "cuda"), (1, "auto")])
def test_more_processes_than_gpus(monkeypatch, tiny, tmp_path, visible, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(visible))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    with pytest.raises(UserError, match=rf"train.processes is 2, but PyTorch sees {visible} GPU"):
        both_stages(tmp_path, tmp_path, configured(tiny, 2, device=device))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_are_a_partition(size):
    for n in (0, 1, 2, 6, 7, 50):
        rows = [np.arange(n)[Processes(rank, size).share(n)] for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(n))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        assert len(rows[0]) == max(map(len, rows)), "the first share is never the smaller one"


def test_one_process_exchanges_nothing():
    x = torch.ones(3, requires_grad=True)
    assert ALONE.gather(x, 3) is x
    assert ALONE.from_first(lambda: 5) == 5
    assert ALONE.sum([x])[0] is x
    before = torch.get_rng_state()
    ALONE.reseed(1, 2, 3)
    assert torch.equal(before, torch.get_rng_state())


def test_every_step_of_every_other_process_has_a_seed_of_its_own():
    before = torch.get_rng_state()
    drawn = set()
    for rank in (1, 2):
        for step in range(5):
            Processes(rank, 3).reseed(0, 0, step)
            drawn.add(float(torch.rand(())))
    torch.set_rng_state(before)
    assert len(drawn) == 10
