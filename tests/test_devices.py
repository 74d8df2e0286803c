"""Where networks run: one choice for training, backbones and text models."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from neuroalign.devices import autocast, choose_device
from neuroalign.errors import UserError


@pytest.mark.parametrize("key", ["train.device", "video.device", "text.device"])
def test_a_gpu_that_is_not_there(monkeypatch, key):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto", key).type == "cpu"
    with pytest.raises(UserError, match=rf"{key} is 'cuda' but PyTorch sees no GPU"):
        choose_device("cuda", key)


def test_a_gpu_that_is_there_is_taken_unless_the_cpu_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto", "train.device").type == "cuda"
    assert choose_device("cuda", "train.device").type == "cuda"
    assert choose_device("cpu", "train.device").type == "cpu"


def test_processors_compute_in_float32_unless_told_otherwise():
    cpu = torch.device("cpu")
    assert isinstance(autocast(cpu), nullcontext)
    x = torch.ones(4, 4)
    with autocast(cpu, always=True):
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32
