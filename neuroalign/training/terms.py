r"""The terms of both stages' losses on one batch, pair of modalities by pair of modalities.

FMRI and video are always contrasted. With text there are two more pairs, fMRI with text and video with text, each with a
weight of its own (``train.text``) and terms of its own, named after it (``global_fmri_text``, ...): a pair's loss is the same
formula on its modalities, over the clips and steps that have text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroalign.config.train import Ntcl, TextPairs, Train, Vq
from neuroalign.models.losses.contrast import Content, centred, info_nce, level_info_nce, soft_targets
from neuroalign.models.losses.prediction import prediction_loss
from neuroalign.models.losses.temporal import time_contrast
from neuroalign.models.model import FMRI, TEXT, TEXT_PAIRS, VIDEO, Encoded, NeuroAlign, pair_name
from neuroalign.models.quantise.losses import code_agreement, commitment, reconstruction
from neuroalign.models.quantise.residual import Quantised
from neuroalign.training.data import Batch

# Fewer clips cannot be contrasted.
_FEWEST = 2


@dataclass
class Pairing:
    """Two modalities of a batch: n items of the first, m clips of the second, and which belong together.

    Attributes
    ----------
    first, second : str
        Modalities.
    kept : Tensor, optional
        Rows of the first that take part; None where all do.
    columns_kept : Tensor, optional
        Likewise of the second.
    own : int Tensor (n,)
        Column of each row, among those that take part.
    rows, columns : Content
        Of those that take part.
    present : bool Tensor (m, steps), optional
        Steps that the second has; None where all are there.
    """

    first: str
    second: str
    kept: Tensor | None
    columns_kept: Tensor | None
    own: Tensor
    rows: Content
    columns: Content
    present: Tensor | None = None

    @property
    def name(self) -> str:
        """Suffix of the pair's terms."""
        return pair_name(self.first, self.second)

    def of_first(self, x: Tensor) -> Tensor:
        """The rows of a tensor of the first modality that take part."""
        return x if self.kept is None else x[self.kept]

    def of_second(self, x: Tensor) -> Tensor:
        """The rows of a tensor of the second modality that take part."""
        return x if self.columns_kept is None else x[self.columns_kept]

    def take(self, encoded: dict[str, Encoded]) -> tuple[Encoded, Encoded]:
        """Both sides, of what takes part."""
        a, b = encoded[self.first], encoded[self.second]
        return (
            a if self.kept is None else a.take(self.kept),
            b if self.columns_kept is None else b.take(self.columns_kept),
        )

    def paired(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Token by token what belongs together, of tensors (n, steps, ...) and (m, steps, ...) that take part."""
        a, b = self.of_first(a), self.of_second(b)[self.own]
        if self.present is None:
            return a, b
        here = self.present[self.own]
        return a[here], b[here]


def pairings(batch: Batch, encoded: dict[str, Encoded], weights: TextPairs) -> list[Pairing]:
    """The pairs of modalities of a batch; those with text only where their weight is not 0 and clips have captions."""
    found = [Pairing(FMRI, VIDEO, None, None, batch.own, batch.rows, batch.columns)]
    if TEXT not in encoded:
        return found
    present = encoded[TEXT].present
    has = present.any(dim=1)
    columns = has.nonzero()[:, 0]
    place = torch.cumsum(has, dim=0) - 1
    for first, second in TEXT_PAIRS:
        if not weights.of(first, second) or len(columns) < _FEWEST:
            continue
        own = batch.own if first == FMRI else torch.arange(len(has), device=has.device)
        content = batch.rows if first == FMRI else batch.columns
        kept = has[own].nonzero()[:, 0]
        found.append(
            Pairing(
                *(first, second, kept, columns, place[own[kept]]),
                content.take(kept),
                batch.columns.take(columns),
                present[columns],
            )
        )
    return found


def ntcl_terms(
    network: NeuroAlign, encoded: dict[str, Encoded], batch: Batch, config: Ntcl, text: TextPairs
) -> dict[str, Tensor]:
    """The terms of stage 1 on one batch, unweighted; a term with weight 0 is absent.

    Parameters
    ----------
    network : NeuroAlign
    encoded : dict of modality to Encoded
        FMRI of the n windows, the others of the m distinct clips of `batch`.
    batch : Batch
    config : Ntcl
    text : TextPairs
    """
    terms: dict[str, Tensor] = {}
    for pair in pairings(batch, encoded, text):
        terms |= {f"{k}{pair.name}": v for k, v in _pair_terms(network, encoded, pair, config).items()}
    if config.terms.shift and network.haemodynamic is not None:
        terms["shift"] = network.haemodynamic.penalty()
    return terms


def _pair_terms(
    network: NeuroAlign, encoded: dict[str, Encoded], pair: Pairing, config: Ntcl
) -> dict[str, Tensor]:
    weights, present = config.terms, pair.present
    a, b = pair.take(encoded)
    targets = soft_targets(pair.rows, pair.columns, config.soften_s)
    scale = {term: network.scale(f"{term}{pair.name}") for term in ("global", "level", "time", "pred")}
    terms = {
        "global": info_nce(centred(a.pooled), _centred_pooled(network, pair, b), targets, scale["global"])
    }
    if weights.level:
        terms["level"] = level_info_nce(
            centred(a.tokens), centred(b.tokens, present), targets, scale["level"]
        )
    several_steps = a.steps.shape[1] > 1
    if weights.time and several_steps:
        terms["time"] = time_contrast(
            *(centred(a.steps), centred(b.steps, present), pair.rows, pair.columns),
            *(network.step_times, scale["time"], config.neighbour_s, present),
        )
    if weights.pred and several_steps:
        # Not centred over the batch: a mean over clips would let later steps into what predicts them.
        terms["pred"] = prediction_loss(
            network.predictors[pair.first](a.steps),
            network.predictors[pair.second](b.steps),
            *(a.steps, b.steps, targets, scale["pred"], present),
        )
    return terms


def _centred_pooled(network: NeuroAlign, pair: Pairing, b: Encoded) -> Tensor:
    """Pooled vectors without their mean; steps that lie side by side in them may be missing one by one."""
    if pair.present is None or network.pools[pair.second].mode != "steps":
        return centred(b.pooled)
    return centred(b.pooled.view(b.steps.shape), pair.present).flatten(1)


def ntcl_loss(terms: dict[str, Tensor], config: Ntcl, text: TextPairs) -> Tensor:
    """The weighted sum of `ntcl_terms`."""
    return _weighted(terms, config.terms, text)


def vq_loss(terms: dict[str, Tensor], config: Vq, text: TextPairs) -> Tensor:
    """The weighted sum of `vq_terms`."""
    return _weighted(terms, config.terms, text)


def _weighted(terms: dict[str, Tensor], weights: object, text: TextPairs) -> Tensor:
    """A term counts with the weight of its kind (1 if it has none) times that of its pair of modalities."""
    total: Tensor | int = 0
    for name, value in terms.items():
        factor = 1.0
        for pair in TEXT_PAIRS:
            if name.endswith(pair_name(*pair)):
                name, factor = name.removesuffix(pair_name(*pair)), text.of(*pair)
        weight = getattr(weights, name.removesuffix(f"_{TEXT}"), 1.0)
        total = total + value * (weight if factor == 1.0 else weight * factor)
    return total


def vq_terms(
    network: NeuroAlign, encoded: dict[str, Encoded], batch: Batch, config: Train
) -> tuple[dict[str, Tensor], dict[str, Quantised]]:
    """The terms of stage 2 on one batch, unweighted (a term with weight 0 is absent), and the quantised tokens."""
    stage, weights, quantiser = config.vq, config.vq.terms, network.quantiser
    quantised = {m: quantiser(m, encoded[m].tokens) for m in encoded}
    pairs = pairings(batch, encoded, config.text)
    targets = {p.name: soft_targets(p.rows, p.columns, config.ntcl.soften_s) for p in pairs}
    terms: dict[str, Tensor] = {}
    for pair in pairs:
        a, b = quantised[pair.first], quantised[pair.second]
        if weights.commitment:
            (u, v), (p, q) = pair.paired(a.tokens, b.tokens), pair.paired(a.codes, b.codes)
            terms[f"commitment{pair.name}"] = 0.5 * (commitment(u, p, q) + commitment(v, q, p))
        if weights.agreement:
            terms[f"agreement{pair.name}"] = code_agreement(
                quantiser.distributions(pair.of_first(a.tokens), stage.temperature),
                quantiser.distributions(pair.of_second(b.tokens), stage.temperature),
                *(pair.own, targets[pair.name], pair.present),
            )
    decoded = {m: quantiser.decode(m, q.codes) for m, q in quantised.items()}
    if weights.reconstruction:
        terms["reconstruction"] = 0.5 * (
            reconstruction(decoded[FMRI], encoded[FMRI].tokens)
            + reconstruction(decoded[VIDEO], encoded[VIDEO].tokens)
        )
        if len(pairs) > 1:
            here = encoded[TEXT].present
            terms["reconstruction_text"] = 0.5 * reconstruction(
                decoded[TEXT][here], encoded[TEXT].tokens[here]
            )
    for pair in pairs:
        a, b = pair.take(encoded)
        if weights.prediction and a.steps.shape[1] > 1:
            first = network.pools[pair.first].steps(pair.of_first(decoded[pair.first]))
            second = network.pools[pair.second].steps(pair.of_second(decoded[pair.second]))
            terms[f"prediction{pair.name}"] = prediction_loss(
                network.predictors[pair.first](first),
                network.predictors[pair.second](second),
                *(a.steps, b.steps, targets[pair.name], network.scale(f"pred{pair.name}"), pair.present),
            )
    if weights.contrast:
        found = ntcl_terms(network, encoded, batch, config.ntcl, config.text)
        terms["contrast"] = ntcl_loss(found, config.ntcl, config.text)
    return terms, quantised
