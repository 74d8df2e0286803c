"""A run that was killed at any moment goes on to the same weights, bit for bit."""

from __future__ import annotations

import importlib.util
import json
import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from neuroalign.config.train import Optimiser
from neuroalign.errors import UserError
from neuroalign.training import loop
from neuroalign.training.loop import Trainer, loaded_ahead, parameter_groups
from neuroalign.training.ntcl import train_ntcl
from neuroalign.training.vq import train_vq

GEOMETRY = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}


class Killed(BaseException):
    """What nothing in training catches."""


def assert_equal_files(one: Path, other: Path) -> None:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for table in one.glob("*.tsv"):
        assert table.read_bytes() == (other / table.name).read_bytes(), table.name


def killed_at(monkeypatch, moments: set[int]):
    """Write a checkpoint after every step, and die after some of them."""
    write, seen = Trainer.write_checkpoint, []

    def write_and_die(trainer):
        write(trainer)
        seen.append((trainer.epoch, trainer.done))
        if len(seen) in moments:
            raise Killed

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(Trainer, "write_checkpoint", write_and_die)
    return seen


def test_both_stages_go_on_exactly_from_any_step(make_pairs, tiny, tmp_path, monkeypatch):
    """Dropout, order, optimiser, running mean, the best epoch so far, codebooks and codes that restart."""
    pairs = make_pairs(clips=(20, 6, 3), subjects=2, units=(6, 6, 6))
    # What training starts from is made anew whenever a run is taken up: the quick start, as it is not what is tested.
    encoder = {"dim": 8, "depth": 1, "heads": 2, "subject_rank": 2, "linear_start": False}
    common = {"epochs": 3, "batch_size": 10, "patience": 9}
    config = tiny({"encoder": encoder} | common, {"codes": 8, "depth": 2, "revive_after": 2} | common)

    def stage(name: str, branch: Path) -> None:
        if name == "ntcl":
            train_ntcl(pairs, branch / "ntcl", config, 3, made_by={}, geometry=GEOMETRY)
        else:
            train_vq(pairs, branch / "ntcl", branch / "vq", config, 3, made_by={})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in ("ntcl", "vq"):
        stage(name, whole)
        with monkeypatch.context() as patched:
            # 4 steps an epoch, 3 of them and the end of the epoch with a checkpoint.
            seen = killed_at(patched, {2, 5})
            for _ in range(2):
                with pytest.raises(Killed):
                    stage(name, killed)
            assert (killed / name / loop.CHECKPOINT_FILE).exists()
            assert not (killed / name / "model.json").exists()
            assert {(0, 2), (1, 0), (1, 1)} <= set(seen)
            stage(name, killed)
        assert_equal_files(whole / name, killed / name)
        assert not (killed / name / loop.CHECKPOINT_FILE).exists()


KILLED_CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
import torch
torch.set_num_threads(1)
from neuroalign.config.train import Train
from neuroalign.training import loop
from neuroalign.training.launch import run_stage

pairs, out, config, moments = sys.argv[2], sys.argv[3], Train.model_validate_json(sys.argv[4]), sys.argv[5:]
loop.CHECKPOINT_SECONDS = -1.0
step, count = loop.Trainer._step, [0]

def step_and_die(trainer, *arguments):
    count[0] += 1
    if str(count[0]) in moments:
        os.kill(os.getpid(), signal.SIGKILL)
    step(trainer, *arguments)

loop.Trainer._step = step_and_die
geometry = {"duration_s": 4.0, "step_s": 1.0, "hrf": {"method": "adaptive", "window_s": [0.0, 12.0]}}
run_stage("neuroalign.training.ntcl:train_ntcl", Path(pairs), 0, config, out=out, seed=3, made_by={}, geometry=geometry)
"""


@pytest.mark.slow
def test_a_process_killed_by_the_system_goes_on_from_disk(make_pairs, on_disk, tiny, tmp_path, root):
    """Killed in the middle of a step, with batches read from disk or not, it ends as a run in memory does."""
    pairs = make_pairs(clips=(20, 6, 3), subjects=2, units=(6, 6, 6))
    folder = on_disk(pairs, tmp_path / "pairs")
    config = tiny({"epochs": 3, "batch_size": 10, "patience": 9})
    train_ntcl(pairs, tmp_path / "whole", config, 3, made_by={}, geometry=GEOMETRY)

    def child(*moments: int) -> int:
        arguments = [str(root), str(folder), str(tmp_path / "out"), config.model_dump_json()]
        command = [sys.executable, "-c", KILLED_CHILD, *arguments, *map(str, moments)]
        return subprocess.run(command, check=False).returncode

    assert child(7) == -signal.SIGKILL
    with safe_open(tmp_path / "out" / loop.CHECKPOINT_FILE, "pt") as file:
        state = json.loads(file.metadata()["state"])
    assert (state["epoch"], state["done"]) == (1, 2)
    assert child() == 0
    assert_equal_files(tmp_path / "whole", tmp_path / "out")


def small_trainer(folder: Path, fingerprint: str = "x", **options) -> Trainer:
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(network.weight)
    config = Optimiser(**({"epochs": 9, "batch_size": 2, "lr": 0.1, "warmup": 0, "average": 0} | options))
    groups = parameter_groups(network, config, {})
    return Trainer(network, config, groups, torch.Generator().manual_seed(0), folder, fingerprint)


def test_training_stops_when_validation_no_longer_improves_and_the_best_is_kept(tmp_path):
    trainer, scores = small_trainer(tmp_path, patience=3), [0.0, 1.0, 5.0, 4.0, 4.0, 4.0, 9.0]
    seen = {}

    def validate(epoch):
        seen[epoch] = trainer.network.weight.detach().clone()
        return scores[epoch], []

    trainer.fit(8, lambda rows: (trainer.network.weight.square().sum(), {}), validate)
    assert list(seen) == [0, 1, 2, 3, 4, 5], "three epochs without a better one"
    assert (trainer.best_epoch, trainer.best_score) == (2, 5.0)
    assert torch.equal(trainer.network.weight, seen[2])


def test_the_norm_of_gradients_is_clipped(tmp_path, monkeypatch):
    trainer, norms = small_trainer(tmp_path, epochs=1, clip_norm=0.25), []
    step = trainer.optimiser.step
    monkeypatch.setattr(
        trainer.optimiser,
        "step",
        lambda: (norms.append(float(trainer.network.weight.grad.norm())), step())[1],
    )
    # The first two gradients are long, the others short: they are left as they are.
    slopes = iter([100.0, 7.0, 0.1, 0.01])
    trainer.fit(8, lambda rows: (trainer.network.weight.sum() * next(slopes), {}), lambda epoch: (0.0, []))
    np.testing.assert_allclose(norms, [0.25, 0.25, 0.1 * 2**0.5, 0.01 * 2**0.5], rtol=1e-4)


def test_the_schedule_reaches_the_optimiser(tmp_path, monkeypatch):
    trainer, rates = small_trainer(tmp_path, epochs=2, warmup=0.25, lr=1.0), []
    step = trainer.optimiser.step
    monkeypatch.setattr(
        trainer.optimiser, "step", lambda: (rates.append(trainer.optimiser.param_groups[0]["lr"]), step())[1]
    )
    trainer.fit(8, lambda rows: (trainer.network.weight.sum(), {}), lambda epoch: (0.0, []))
    # 8 steps, 2 of them warm-up; then the cosine from its top over 6 steps.
    cosine = [0.5 * (1 + np.cos(np.pi * k / 6)) for k in range(6)]
    np.testing.assert_allclose(rates, [0.5, 1.0, *cosine])


def test_a_loss_that_is_no_number_ends_training_with_a_reason_and_no_checkpoint_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    trainer, losses = small_trainer(tmp_path), iter([1.0, 1.0, 1.0, float("nan"), 1.0])
    with pytest.raises(UserError, match=r"diverged in epoch 1.*lower the lr"):
        trainer.fit(
            10, lambda rows: (trainer.network.weight.sum() * next(losses), {}), lambda epoch: (0.0, [])
        )
    with safe_open(trainer.path, "pt") as file:
        assert json.loads(file.metadata()["state"])["done"] == 3
        assert bool(file.get_tensor("network.weight").isfinite().all())


def test_batches_loaded_ahead_come_in_order_and_what_fails_in_the_thread_is_raised(tmp_path):
    rows = list(torch.arange(12).split(3))
    for ahead in (0, 1, 2, 9):
        assert [x.tolist() for x in loaded_ahead(rows, lambda x: 2 * x, ahead)] == [
            (2 * x).tolist() for x in rows
        ]

    def load(x):
        if int(x[0]) == 6:
            raise UserError("a shard is gone")
        return x

    given = loaded_ahead(rows, load, 2)
    assert [next(given).tolist(), next(given).tolist()] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match="shard is gone"):
        next(given)


def test_progress_is_told_epoch_by_epoch_and_in_between_if_epochs_are_long(tmp_path, monkeypatch, caplog):
    from neuroalign.training import progress

    monkeypatch.setattr(progress, "_LINE_SECONDS", -1.0)
    trainer = small_trainer(tmp_path, epochs=2)
    with caplog.at_level(logging.INFO, "neuroalign"):
        trainer.fit(4, lambda rows: (trainer.network.weight.sum(), {}), lambda epoch: (0.5 + epoch, []))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "epoch 0 of 2: validation 0.5000 (best 0.5000 after epoch 0)"
    assert said[1].startswith("epoch 1, step 1 of 2: loss 2.0000; ")
    assert any(line.startswith("epoch 1 of 2: loss ") and "left" in line for line in said)
    assert said[-1] == "stopped after epoch 2; best epoch 2 (2.5000)"


def events_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_events_for_tensorboard(tmp_path, monkeypatch):
    """A fresh log for a run from the start, the same log for one taken up; without the package there is none."""

    def fit(fingerprint: str, *dies_after: int):
        trainer = small_trainer(tmp_path, fingerprint, epochs=4)

        def validate(epoch):
            if epoch in dies_after:
                raise Killed
            return float(epoch), [("validation", "mrr", 0.1 * epoch)]

        trainer.fit(4, lambda rows: (trainer.network.weight.sum(), {}), validate)

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    folder = tmp_path / "tensorboard"
    with pytest.raises(Killed):
        fit("one", 3)
    fit("one")
    if importlib.util.find_spec("tensorboard") is None:
        assert not folder.exists()
        return
    scores = events_of(folder)["validation/mrr"]
    assert [step for step, _ in scores] == [0, 1, 2, 3, 4]
    assert [value for _, value in scores] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    fit("another")
    assert [step for step, _ in events_of(folder)["train/total"]] == [1, 2, 3, 4]
