"""What the rules of the video side ask for, and what of it workflows may share."""

from __future__ import annotations

import re
from collections.abc import Collection

from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.weights import backbone_request, local_folder


def embed_needs(video: Video, gpus: int) -> dict[str, int]:
    """What an embedding job asks for.

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
    on where it was, with more time at each attempt: models of clips take seconds for each window on a processor, so that
    V-JEPA 2 without a GPU takes days for a film of two hours, and several attempts.
    """
    if backbone_request(video) is None:
        return {"threads": 2, "mem_mb": 1500, "runtime": 60}
    return {"threads": 8, "mem_mb": 8000, "runtime": 60 if gpus else 720}


def _weights_are_fixed(video: Video) -> bool:
    """Whether the settings say which numbers are in the weights: a commit does; a branch, a tag or a folder may change."""
    request = backbone_request(video)
    if request is None:
        return True
    return re.fullmatch("[0-9a-f]{40}", request.revision or "") is not None and local_folder(request) is None


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
        If a rule is named whose outputs are of a subject, or not told apart by what Snakemake compares; if weights are
        written like a path and are no folder.
    """
    if asked is None:
        return set()
    may = {"normalise", "embed"}
    if not _weights_are_fixed(video):
        # Snakemake compares the settings, and these say nothing about the numbers in the weights.
        may.remove("embed")
    for rule in sorted(set(asked) - may):
        if rule == "embed":
            raise UserError(
                f"--cache cannot share embeddings of {video.backbone}, because the settings do not say which weights it "
                "has: take them from the hub and set video.revision to their full commit (40 digits), or leave out 'embed'."
            )
        raise UserError(
            f"--cache cannot share the outputs of rule '{rule}': only those of {' and '.join(sorted(may))} depend on "
            "stimuli alone."
        )
    return may
