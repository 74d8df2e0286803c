"""L_pred: bidirectional prediction of later steps of the other modality."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroalign.models.losses.contrast import info_nce
from neuroalign.models.shapes import check_shapes


class Predictor(nn.Module):
    r"""Linear predictions :math:`\hat g_{t+k} = P_k\, g_t`, k = 1..K, from causal step vectors.

    A step vector summarises its clip up to that step (`encoders.transformer`), so that "everything up to t" is the
    vector at t.

    Parameters
    ----------
    dim, horizon : int
    """

    def __init__(self, dim: int, horizon: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(dim).repeat(horizon, 1, 1))

    def forward(self, steps: Tensor) -> Tensor:
        """Step vectors (n, steps, dim) to predictions (n, steps, K, dim); [:, t, k-1] is meant for step t+k."""
        return torch.einsum("ntd,kde->ntke", steps, self.weight)


def prediction_loss(
    predicted_video: Tensor,
    predicted_brain: Tensor,
    brain: Tensor,
    video: Tensor,
    targets: Tensor,
    scale: Tensor,
    present: Tensor | None = None,
) -> Tensor:
    r"""Mean over steps t, distances k and both directions of an InfoNCE over the batch.

    .. math:: L_{pred} = \tfrac12\,\langle \mathrm{InfoNCE}(\hat g^v_{t+k}, g^v_{t+k}) \rangle_{t,k} +
              \tfrac12\,\langle \mathrm{InfoNCE}(\hat g^b_{t+k}, g^b_{t+k}) \rangle_{t,k}

    (contrastive predictive coding across modalities, after van den Oord et al. 2018).

    Parameters
    ----------
    predicted_video : Tensor (n, steps, K, dim)
        From the brain's steps.
    predicted_brain : Tensor (m, steps, K, dim)
        From the video's steps.
    brain, video : Tensor (n, steps, dim), (m, steps, dim)
    targets : Tensor (n, m)
        As `contrast.soft_targets` of (presentations, clips).
    scale : Tensor
    present : bool Tensor (m, steps), optional
        Steps that `video` (here: text) has; nothing is predicted from or about the others.

    Returns
    -------
    Tensor
        0 where clips have a single step.
    """
    sizes = check_shapes(
        "prediction_loss",
        predicted_video=(predicted_video, "n steps horizon dim"),
        predicted_brain=(predicted_brain, "m steps horizon dim"),
        brain=(brain, "n steps dim"),
        video=(video, "m steps dim"),
        targets=(targets, "n m"),
        **({} if present is None else {"present": (present, "m steps")}),
    )
    steps, horizon = sizes["steps"], sizes["horizon"]
    own = targets.argmax(dim=1)

    def contrast(a: Tensor, b: Tensor, step: int) -> list[Tensor]:
        if present is None:
            return [info_nce(a, b, targets, scale)]
        columns = present[:, step]
        rows = columns[own]
        if int(columns.sum()) < 2:
            return []
        return [info_nce(a[rows], b[columns], targets[rows][:, columns], scale)]

    terms = []
    for ahead in range(1, horizon + 1):
        for t in range(steps - ahead):
            terms += contrast(predicted_video[:, t, ahead - 1], video[:, t + ahead], t + ahead)
            terms += contrast(brain[:, t + ahead], predicted_brain[:, t, ahead - 1], t)
    return torch.stack(terms).mean() if terms else brain.new_zeros(())
