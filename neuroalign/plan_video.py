"""What the rules of the video side ask for, and what of it workflows may share."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from neuroalign.config.backbones import REGISTRY
from neuroalign.config.video import Video
from neuroalign.errors import UserError


def embed_needs(video: Video, gpus: int) -> dict[str, int]:
    """What an embedding job asks for, enough for a film of two hours.

    Parameters
    ----------
    video : Video
    gpus : int
        GPUs that the job gets.

    Returns
    -------
    dict
        `threads`, `mem_mb`, and minutes of `runtime` at the first attempt.

    Notes
    -----
    Backbones without weights are light. A network wants threads: to decode for a GPU, or to compute. A job that runs out of time goes
    on where it was.
    """
    if not _has_weights(video):
        return {"threads": 2, "mem_mb": 1500, "runtime": 60}
    return {"threads": 8, "mem_mb": 8000, "runtime": 60 if gpus else 720}


def _has_weights(video: Video) -> bool:
    """Whether the backbone is a network whose weights are fetched."""
    registered = REGISTRY.get(video.backbone)
    return registered is not None and registered.weights is not None


def shared_rules(video: Video, asked: Collection[str] | None) -> set[str]:
    """Rules whose outputs Snakemake may share between workflows (``--cache``).

    Parameters
    ----------
    video : Video
    asked : collection of str, or None
        Rules named after ``--cache``, none for all that may be shared; None without ``--cache``.

    Raises
    ------
    UserError
        If a rule is named whose outputs are of a subject, or not told apart by what Snakemake compares.
    """
    if asked is None:
        return set()
    may = {"normalise", "embed"}
    if _has_weights(video) and (video.revision is None or Path(video.weights or "").is_dir()):
        # Snakemake compares the settings, and these say nothing about the numbers in the weights.
        may.remove("embed")
    for rule in sorted(set(asked) - may):
        if rule == "embed":
            raise UserError(
                f"--cache cannot share embeddings of {video.backbone}, because the settings do not say which weights it "
                "has: name hub weights with their commit (video.weights, video.revision), or leave out 'embed'."
            )
        raise UserError(
            f"--cache cannot share the outputs of rule '{rule}': only those of {' and '.join(sorted(may))} depend on "
            "stimuli alone."
        )
    return may
