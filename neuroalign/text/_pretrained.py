"""What the captioner and the text models share: where they run, and loading that leaves nothing to chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from neuroalign.errors import UserError
from neuroalign.video.weights_record import VOCABULARIES


def load(folder: Path, key: str, loader: Callable[..., Any], **options: Any) -> Any:
    """Call a ``from_pretrained`` of transformers on a local folder.

    Parameters
    ----------
    folder : Path
    key : str
        The configuration key that names the weights, for messages.
    loader : callable
    **options
        For the loader.

    Raises
    ------
    UserError
        If the folder does not hold what the loader needs.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    try:
        # What is missing is looked at below; a table of what is not needed would only alarm.
        logging.set_verbosity_error()
        return loader(folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"the weights in {folder} could not be loaded ({reason}); set {key} to a hub id or a folder in transformers' "
            "format, with its tokenizer and safetensors."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def load_tokenizer(folder: Path, key: str) -> Any:
    """Load the tokenizer of a model.

    Raises
    ------
    UserError
        If its vocabulary is not in the folder: transformers would make one without words.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(
            f"the weights in {folder} have no {VOCABULARIES[0]}; save the tokenizer there, or set {key} to other weights."
        )
    return load(folder, key, AutoTokenizer.from_pretrained)


def load_model(
    folder: Path, key: str, family: type, *, dtype: torch.dtype = torch.float32, config: Any = None
) -> Any:
    """Load a model whose every weight is in the folder.

    Parameters
    ----------
    folder : Path
    key : str
        The configuration key that names the weights, for messages.
    family : type
        A model class of transformers, or `AutoModel`.
    dtype : torch.dtype
    config : PretrainedConfig, optional
        That of the folder by default.

    Raises
    ------
    UserError
        If the folder does not hold such a model, or lacks some of its weights: transformers would draw those at random.
    """
    model, report = load(
        folder,
        key,
        family.from_pretrained,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
    )
    # Sentence embedders are often saved without BERT's pooler, which is not used here.
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(
            f"the weights in {folder} are not those of a {type(model).__name__}: {len(missing)} are missing, such as "
            f"{missing[0]}; set {key} to other weights."
        )
    return model.eval()
