"""L_time: contrast of steps inside a stimulus, so that the embedding knows *when*."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neuroalign.models.losses.contrast import Content, soft_cross_entropy
from neuroalign.models.shapes import check_shapes


def time_contrast(
    brain: Tensor,
    video: Tensor,
    brain_content: Content,
    video_content: Content,
    step_times: Tensor,
    scale: Tensor,
    neighbour_s: float,
    present: Tensor | None = None,
) -> Tensor:
    r"""Step t of the brain against the steps of its own clip and of neighbouring clips of the same stimulus.

    .. math:: L_{time} = \mathrm{CE}_{(i,t)}\big(\cos(g^b_{i,t}, g^v_{j,t'}) / \tau,\;
              y \propto \exp(-\Delta^2 / 2\sigma^2)\big),

    where j runs over clips of the same stimulus that start within `neighbour_s` seconds, :math:`\Delta` is the distance
    of the two steps in stimulus time and :math:`\sigma` half a step: the step itself is the positive, the one beside it
    hardly counts. The video's steps are contrasted with the brain's of the same presentation likewise.

    Parameters
    ----------
    brain : Tensor (n, steps, dim)
    video : Tensor (m, steps, dim)
    brain_content, video_content : Content
    step_times : Tensor (steps,)
    scale : Tensor
        Inverse temperature.
    neighbour_s : float
        0 keeps to the own clip.
    present : bool Tensor (m, steps), optional
        Steps that `video` (here: text) has. The others are neither candidates nor asked for; the own clip of each
        row must have one.
    """
    sizes = check_shapes(
        "time_contrast",
        brain=(brain, "n steps dim"),
        video=(video, "m steps dim"),
        brain_content=(brain_content.clip, "n"),
        video_content=(video_content.clip, "m"),
        step_times=(step_times, "steps"),
        **({} if present is None else {"present": (present, "m steps")}),
    )
    n, m, steps = (sizes[name] for name in ("n", "m", "steps"))
    sigma = 0.5 * float(step_times[1] - step_times[0])
    similarity = scale * torch.einsum("ntd,mud->ntmu", F.normalize(brain, dim=-1), F.normalize(video, dim=-1))

    same = brain_content.clip[:, None] == video_content.clip[None, :]
    gap = video_content.start_s[None, :] - brain_content.start_s[:, None]
    beside = brain_content.stimulus[:, None] == video_content.stimulus[None, :]
    candidate = same | (beside & (gap.abs() <= neighbour_s))
    offset = torch.where(same, 0.0, gap)[:, None, :, None]
    candidate = candidate[:, None, :, None]
    if present is not None:
        candidate = candidate & present[None, None]
    distance = offset + step_times[None, None, None, :] - step_times[None, :, None, None]
    targets = torch.exp(-0.5 * (distance / sigma) ** 2) * candidate
    own = same.float().argmax(dim=1)
    if present is not None:
        targets = targets * present[own][:, :, None, None]
    masked = similarity.masked_fill(~candidate, float("-inf"))
    forward = soft_cross_entropy(masked.reshape(n * steps, m * steps), targets.reshape(n * steps, m * steps))

    rows = torch.arange(n, device=brain.device)
    backward_logits = similarity[rows, :, own].transpose(1, 2)
    backward_targets = targets[rows, :, own].transpose(1, 2)
    backward = soft_cross_entropy(backward_logits.flatten(0, 1), backward_targets.flatten(0, 1))
    return 0.5 * (forward + backward)
