"""Embedding a film against the bare model: what decoding, preprocessing, pooling and writing cost on top.

The model is a ResNet-101 with random weights, saved and loaded as real ones are; the film is made on the spot and
normalised. The reference is the model's forward pass alone, on a batch that is ready in memory, with the same batch size,
threads, precision and memory format. Both run in turn, several times, and the best of each counts; the ratio of processor
seconds is told as well, because other work on the machine disturbs it less. Run by hand::

    python benchmarks/embed_throughput.py --threads 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetBottleNeckLayer

from neuroalign.config.video import Video
from neuroalign.video.backbones import load_backbone
from neuroalign.video.decode import film
from neuroalign.video.embed import embed_with
from neuroalign.video.normalise import normalise

# Dense bfloat16 peaks in FLOP/s, from the makers' data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "V100": 125e12}

# As in the preprocessor_config.json of microsoft/resnet-101.
PREPROCESSING = {
    "crop_pct": 0.875,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": 224,
}


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="length of the film")
    parser.add_argument("--batch", type=int, default=32, help="frames per forward pass")
    parser.add_argument("--threads", type=int, default=2, help="threads that compute, and that decode")
    parser.add_argument("--repeats", type=int, default=2, help="how often each is timed")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mezzanine = _film(folder, options.seconds)
        weights = _weights(folder / "weights")
        config = Video(
            backbone="resnet101", weights=str(weights), batch_size=options.batch, device=options.device
        )
        backbone = load_backbone(config, 8.0)
        frames = film(mezzanine).n_frames
        bare = _Bare(backbone, options.batch)
        bare.run(options.batch)
        alone, whole = [], []
        for _ in range(options.repeats):
            alone.append(_seconds(bare.run, frames))
            whole.append(
                _seconds(embed_with, backbone, mezzanine, folder / "out.h5", config, threads=options.threads)
            )
    flops = bare.flops_per_frame()
    print(f"{frames} frames, batches of {options.batch}, {options.threads} threads, on {bare.where}")
    (bare_s, bare_cpu), (embed_s, embed_cpu) = (map(min, zip(*runs, strict=True)) for runs in (alone, whole))
    print(f"bare model  {bare_s:7.2f} s, {frames / bare_s:8.1f} frames/s, {bare_cpu:7.2f} processor seconds")
    print(
        f"embed       {embed_s:7.2f} s, {frames / embed_s:8.1f} frames/s, {embed_cpu:7.2f} processor seconds"
    )
    print(
        f"throughput of embed / bare model: {bare_s / embed_s:.3f} (processor seconds: {bare_cpu / embed_cpu:.3f})"
    )
    rate = flops * frames / embed_s
    print(f"{flops / 1e9:.1f} GFLOP per frame, {rate / 1e9:.1f} GFLOP/s while embedding{_share(rate, bare)}")


class _Bare:
    """The forward pass of a backbone's model on a batch in memory, in the backbone's own precision and format."""

    def __init__(self, backbone, batch: int):
        from neuroalign.devices import autocast

        self._model, self._device, self._precision = backbone._model, backbone._device, autocast
        self.where = torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        pixels = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        # As decoded frames lie in memory, and as convolutions like it best.
        self._pixels = pixels.to(self._device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(self, frames: int) -> None:
        """Forward passes for so many frames."""
        for first in range(0, frames, len(self._pixels)):
            with self._precision(self._device):
                self._model(self._pixels[: frames - first], output_hidden_states=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def flops_per_frame(self) -> int:
        """Counted by PyTorch: two for each multiplication with its addition."""
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self._model(self._pixels[:1])
        return counter.get_total_flops()


def _share(rate: float, bare: _Bare) -> str:
    """The share of the card's peak, where there is a card and its peak is known."""
    peak = next((peak for name, peak in PEAKS.items() if name in bare.where), None)
    return (
        ""
        if peak is None
        else f", {rate / peak:.1%} of the card's bfloat16 peak of {peak / 1e12:.0f} TFLOP/s"
    )


def _seconds(function, *arguments, **keywords) -> tuple[float, float]:
    """Seconds that a call takes, on the clock and of all processors."""
    began, used = time.perf_counter(), time.process_time()
    function(*arguments, **keywords)
    return time.perf_counter() - began, time.process_time() - used


def _film(folder: Path, seconds: float) -> Path:
    """A moving test pattern of 640 x 360, normalised as by default."""
    source = f"testsrc2=s=640x360:r=25:d={seconds}"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(folder / "in.mp4")], check=True)
    normalise(folder / "in.mp4", folder / "film.mp4", folder / "film.json", Video())
    return folder / "film.mp4"


def _weights(folder: Path) -> Path:
    """A ResNet-101 with random weights, in the hub's format."""
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(depths=[3, 4, 23, 3], layer_type="bottleneck"))
    for block in model.modules():
        if isinstance(block, ResNetBottleNeckLayer):
            # Normalisation was not trained: without this, activations double from block to block, and overflow.
            torch.nn.init.constant_(block.layer[-1].normalization.weight, 0.1)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


if __name__ == "__main__":
    main()
