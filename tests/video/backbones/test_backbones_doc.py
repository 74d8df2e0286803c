"""docs/backbones.md: the backbones that it shows how to add are added, and run."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
import torch
import transformers as hf

from neuroalign.config.backbones import REGISTRY, Registered
from neuroalign.config.video import Video
from neuroalign.video.backbones import Backbone, load_backbone
from neuroalign.video.decode import iterate_frames
from neuroalign.video.embed import embed
from neuroalign.video.shards import read_embedding


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs/backbones.md").read_text(encoding="utf-8")


@pytest.fixture
def added(page, tmp_path, monkeypatch):
    """The modules of the page, found under their names, and its registry lines in the registry."""
    monkeypatch.syspath_prepend(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks:
        if file := re.match(r"# neuroalign/video/backbones/(\w+)\.py\n", block):
            (tmp_path / f"{file[1]}.py").write_text(block)
            monkeypatch.delitem(sys.modules, file[1], raising=False)
        else:
            assert block.startswith("# in neuroalign/config/backbones.py")
            # Here the modules lie outside the package.
            line = block.replace("neuroalign.video.backbones.", "")
            for name, registered in eval(f"{{{line}}}", {"Registered": Registered}).items():
                monkeypatch.setitem(REGISTRY, name, registered)
    yield sorted(set(REGISTRY))
    for name in ("colour", "vit"):
        sys.modules.pop(name, None)


def test_the_backbone_without_weights_runs_on_a_film(added, mezzanine, tmp_path):
    assert "colour" in added
    config = Video(backbone="colour", window_s=2, stride_s=1)
    assert isinstance(load_backbone(config, 8.0), Backbone)
    embed(mezzanine, tmp_path / "e.h5", config)
    found = read_embedding(tmp_path / "e.h5")
    frames = np.concatenate([f for _, f in iterate_frames(mezzanine, (32, 32))]).astype(float)
    for k in range(5):
        window = frames[8 * k : 8 * k + 16]
        np.testing.assert_allclose(found.levels["mean"][k], window.mean(axis=(0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(
            found.levels["variation"][k], window.std(axis=(1, 2)).mean(axis=0), rtol=1e-5
        )


@torch.no_grad()
def test_the_backbone_with_weights_equals_the_library(added, mezzanine, tmp_path):
    assert "vit" in added
    torch.manual_seed(0)
    model = hf.ViTModel(
        hf.ViTConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=16,
            initializer_range=0.3,
        )
    ).eval()
    model.save_pretrained(tmp_path / "vit")
    # As published: both sides to one size.
    content = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (tmp_path / "vit/preprocessor_config.json").write_text(json.dumps(content))
    embed(mezzanine, tmp_path / "e.h5", Video(backbone="vit", weights=str(tmp_path / "vit"), device="cpu"))
    found = read_embedding(tmp_path / "e.h5")
    frames = np.concatenate([f for _, f in iterate_frames(mezzanine, (32, 32))])
    pixels = torch.tensor(frames / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    states = model(pixels, output_hidden_states=True).hidden_states
    assert list(found.levels) == ["layer1", "layer2", "layer3", "layer4"]
    for n in range(1, 5):
        expected = states[n][:, 0].numpy().reshape(6, 8, -1).mean(axis=1)
        np.testing.assert_allclose(found.levels[f"layer{n}"], expected, rtol=1e-4, atol=1e-4)


def test_the_table_lists_what_is_registered_with_its_weights(page):
    table = page[page.index("|---") : page.index("The last column")]
    rows = {row.split("|")[1].strip(" `"): row for row in table.splitlines() if row.startswith("| `")}
    for name, registered in REGISTRY.items():
        assert (registered.weights or "none") in rows[name]
    assert set(rows) == {*REGISTRY, "precomputed"}
