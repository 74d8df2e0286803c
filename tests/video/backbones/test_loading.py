"""What is told about weights that are not what they should be, and what names those that are."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones import load_backbone

BACKBONES = ("resnet101", "clip", "dinov2", "videomae", "vjepa2")


def config_(weights, name, **more) -> Video:
    return Video(**{"backbone": name, "weights": str(weights[name]), "device": "cpu", **more})


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_wrong_with_weights_is_one_sentence(name, weights, tmp_path):
    def copy(change):
        folder = tmp_path / change
        folder.mkdir()
        for file in weights[name].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    def told(folder, words, **more):
        with pytest.raises(UserError, match=words) as caught:
            load_backbone(config_({name: folder}, name, **more), 8.0)
        assert "\n" not in str(caught.value)

    told(tmp_path / "none", "not on this machine; fetch them with `neuroalign weights")
    folder = copy("bare")
    for file in folder.glob("*preprocessor_config.json"):
        file.unlink()
    told(folder, r"holds no preprocessor_config\.json")
    folder = copy("other")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "model_type": "bert"}))
    told(folder, "are of a bert model")
    folder = copy("list")
    (folder / "config.json").write_text("[]")
    told(folder, "is no configuration of a model")
    folder = copy("odd")
    changed = json.loads((weights[name] / "config.json").read_text())
    for part in (changed, changed.get("vision_config", {})):
        part |= {key: "none" for key in ("hidden_size", "hidden_sizes") if key in part}
    (folder / "config.json").write_text(json.dumps(changed))
    told(folder, "could not be loaded")
    folder = copy("broken")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:500])
    told(folder, "could not be loaded")
    folder = copy("part")
    tensors = load_file(folder / "model.safetensors")
    lost = next(
        n for n in tensors if "weight" in n and any(k in n for k in ("layer.1", "layers.1", "stages.1"))
    )
    if name == "clip":
        lost = next(n for n in tensors if n.startswith("vision_model") and "layers.1" in n and "weight" in n)
    save_file({n: t for n, t in tensors.items() if n != lost}, folder / "model.safetensors", {"format": "pt"})
    told(folder, "lack 1 tensors")
    folder = copy("shape")
    first, *more = tensors[lost].shape
    changed = {**tensors, lost: torch.zeros(first + 1, *more)}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    told(folder, rf"\.weight has the shape \({first + 1},.*\), and \({first},.*\) is stated")
    folder = copy("pickled")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    told(folder, "could not be loaded")
    if name in ("clip", "videomae", "vjepa2"):
        folder = copy("size")
        for file in folder.glob("*preprocessor_config.json"):
            content = json.loads(file.read_text())
            file.write_text(json.dumps({**content, "size": 64, "crop_size": {"height": 48, "width": 48}}))
        told(folder, "gives pictures of 48 pixels, and its model sees 32")


def test_the_revision_names_the_weights(weights, tmp_path):
    from neuroalign.video.weights import BACKBONE_FILES, Request, fetch_weights

    config = config_(weights, "dinov2")
    plain = load_backbone(config, 8.0).revision
    assert plain.startswith(f"{weights['dinov2']}@sha256:")
    fetch_weights(Request(config.weights, None, BACKBONE_FILES, "video.weights"), tmp_path)
    record = json.loads((tmp_path / "weights.json").read_text())
    # As it would be of the hub.
    (tmp_path / "weights.json").write_text(json.dumps({**record, "weights": "lab/dino", "commit": "c0ffee"}))
    other = replace_weights = config.model_copy(update={"weights": "lab/dino"})
    assert load_backbone(other, 8.0, tmp_path / "weights.json").revision == "lab/dino@c0ffee"
    assert load_backbone(replace_weights, 8.0, tmp_path).revision == "lab/dino@c0ffee"
