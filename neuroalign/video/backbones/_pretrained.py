"""What neural backbones share: finding and loading their weights, device, precision, and features fit to be stored."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.backbones._preprocessing import Preprocessing
from neuroalign.video.weights_record import Weights, check_model_type, open_weights

logger = logging.getLogger(__name__)


def find_weights(config: Video, weights: str | PathLike | None) -> Weights:
    """The weights of a backbone, on this machine.

    Parameters
    ----------
    config : Video
    weights : path, optional
        The record or folder of fetched weights; by default ``video.weights``, if that is a folder.

    Raises
    ------
    UserError
        If they are not here. Nothing is fetched: that is a step of its own.
    """
    if weights is not None:
        return open_weights(weights)
    folder = Path(config.weights).expanduser() if config.weights else None
    if folder is None or not folder.is_dir():
        raise UserError(
            f"the weights of {config.backbone} ({config.weights or 'the usual ones'}) are not on this machine; fetch them "
            "with `neuroalign weights --config FILE`, or set video.weights to a folder saved with save_pretrained."
        )
    return open_weights(folder)


def load_model(kind: Any, weights: Weights, types: Sequence[str], unused: Sequence[str] = ()) -> Any:
    """Load a model from its folder, in float32, from safetensors only.

    Parameters
    ----------
    kind : class
        A model class of transformers.
    weights : Weights
    types : sequence of str
        Values of ``model_type`` in ``config.json`` that the class can load.
    unused : sequence of str
        Beginnings of the names of tensors that may be missing because no feature depends on them.

    Raises
    ------
    UserError
        If the folder holds another kind of model, or lacks tensors: what is missing would be random numbers.
    """
    check_model_type(weights.folder, weights.name, types)
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                weights.folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                # What does not fit is told below, with its shapes.
                ignore_mismatched_sizes=True,
            )
    # The library checks little: an odd configuration fails wherever its value is used first.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"the weights {weights.name} in {weights.folder} could not be loaded ({reason}); fetch them again with "
            "`neuroalign weights`, or save the model anew with save_pretrained."
        ) from error
    for tensor, there, wanted in sorted(report["mismatched_keys"]):
        if not tensor.startswith(tuple(unused)):
            raise UserError(
                f"the weights {weights.name} do not fit their config.json: {tensor} has the shape {tuple(there)}, and "
                f"{tuple(wanted)} is stated; save the model and its configuration anew with save_pretrained."
            )
    missing = sorted(n for n in report["missing_keys"] if not n.startswith(tuple(unused)))
    if missing:
        raise UserError(
            f"the weights {weights.name} lack {len(missing)} tensors of a {kind.__name__}, such as {missing[0]}; use "
            "weights of the whole model."
        )
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from listing tensors that are not used, and from drawing a progress bar."""
    from transformers.utils import logging as library

    level, bar = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bar:
            library.enable_progress_bar()


def same_size(preprocessing: Preprocessing, size: int, weights: Weights) -> None:
    """Check that a model is given pictures of the size that it was made for.

    Raises
    ------
    UserError
        If not: the preprocessing is another model's.
    """
    if preprocessing.crop != size:
        raise UserError(
            f"the preprocessing of {weights.name} gives pictures of {preprocessing.crop} pixels, and its model sees "
            f"{size}; save the model's own processor beside the weights."
        )


def to_host(results: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Copy results to numpy, on a GPU one behind: the next is under way before the last is waited for.

    Parameters
    ----------
    results : iterable of tensor
        Made when asked for; on a GPU that only starts the computation.
    """
    waiting: torch.Tensor | None = None
    for result in results:
        if waiting is not None:
            yield waiting.cpu().numpy()
        waiting = result
    if waiting is not None:
        yield waiting.cpu().numpy()
