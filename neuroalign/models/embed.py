"""From scaled tensors to embeddings (arrays), in evaluation mode and in chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neuroalign.models.model import FMRI, TEXT, VIDEO, BrainInput, Encoded, NeuroAlign, TextInput
from neuroalign.models.score import Embedding

CHUNK = 512


def embed_brain(network: NeuroAlign, brain: BrainInput) -> Embedding:
    """Embeddings of scaled brain windows; dropout is off and no gradient is kept."""
    device = network.step_times.device

    def encode(rows: Tensor) -> Encoded:
        return network.encode_fmri(brain.take(rows).to(device))

    return _in_chunks(network, FMRI, len(brain), encode)


def embed_clips(network: NeuroAlign, levels: Mapping[str, Tensor]) -> Embedding:
    """Embeddings of scaled video windows (mapping of level to Tensor (n, steps, dim))."""
    device = network.step_times.device

    def encode(rows: Tensor) -> Encoded:
        return network.encode_video({name: data[rows].to(device) for name, data in levels.items()})

    return _in_chunks(network, VIDEO, len(next(iter(levels.values()))), encode)


def embed_text(network: NeuroAlign, text: TextInput) -> Embedding:
    """Embeddings of scaled text windows, with `present`; vectors are zero where there is no text."""
    device = network.step_times.device

    def encode(rows: Tensor) -> Encoded:
        return network.encode_text(text.take(rows).to(device))

    found, present = _in_chunks(network, TEXT, len(text), encode), text.present.cpu().numpy()
    if found.codes is None:
        return replace(found, present=present)
    # A missing token still has a nearest code.
    here = present[..., None, None]
    codes, index = np.where(here, found.codes, np.float32(0)), np.where(here, found.index, -1)
    return replace(found, codes=codes, index=index, present=present)


def with_text(network: NeuroAlign, clips: Embedding, text: TextInput) -> Embedding:
    """Embeddings of clips together with those of their captions, as the score takes them."""
    return replace(clips, text=embed_text(network, text))


@torch.no_grad()
def _in_chunks(network: NeuroAlign, modality: str, n: int, encode: Callable[[Tensor], Encoded]) -> Embedding:
    was_training = network.training
    network.eval()
    chunks: list[dict[str, np.ndarray]] = []
    for start in range(0, max(n, 1), CHUNK):
        encoded = encode(torch.arange(start, min(start + CHUNK, n)))
        chunk = {"pooled": encoded.pooled, "steps": encoded.steps}
        if network.quantiser is not None:
            quantised = network.quantiser(modality, encoded.tokens)
            chunk |= {"codes": quantised.codes, "index": quantised.index}
        chunks.append({name: _array(value) for name, value in chunk.items()})
    network.train(was_training)
    return Embedding(**{name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]})


def _array(value: Tensor) -> np.ndarray:
    return (value.float() if value.is_floating_point() else value).cpu().numpy()
