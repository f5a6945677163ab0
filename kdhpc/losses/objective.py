"""The loss of each node of a graph.

Dimension suffixes: see ``coefficients.py``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.coefficients import Elementary, GraphCoefficients, Terms
from kdhpc.losses.distillation import CropWindows, PairLosses, attention_losses, probability_losses
from kdhpc.losses.precision import at_least_float32

_LOG_FLOOR = -1e30
"""Least log-probability: a probability of 0 times it is 0, where it would be undefined times -inf."""


class EnsembleOutput(NamedTuple):
    """The answers of all nodes to one batch."""

    logits_MNC: Tensor
    """(M, N, C)."""
    maps_MNHW: Tensor
    """(M, N, H, W)."""
    extra_logits_MNC: tuple[Tensor, ...] = ()
    """(M, N, C) each: further classifiers that join the label loss."""


def node_losses(
    output: EnsembleOutput,
    labels_N: Tensor,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    ramp: Tensor,
    *,
    terms: Terms,
) -> Tensor:
    """L_t for every node t: its gated label loss, and the gated losses of the edges that arrive at it, averaged over N.

    A node's loss has gradients towards that node alone. Computed in float32 or finer, whatever precision the networks
    ran in.

    A source whose output is not finite makes the nodes that it teaches not finite too, as one would expect, and no
    others; under a ``correct`` gate, such logits count as a wrong answer.

    Args:
        output: Of all nodes for the same samples.
        labels_N: Class indices.
        coefficients: The graph.
        windows: For the size of these maps.
        ramp: k / k_end, a scalar tensor: the weight of ``linear`` gates.
        terms: What to compute; must cover what the graph uses.

    Returns:
        (M,).

    Source: paper Eq. 8-11 and 13-15. A ``correct`` gate's sum is divided by the full N.
    """
    logits_MNC = at_least_float32(output.logits_MNC)
    log_probability_MNC = F.log_softmax(logits_MNC, dim=2).clamp_min(_LOG_FLOOR)
    loss_M = _label_losses(output, log_probability_MNC, labels_N, coefficients, ramp)
    if not any(terms):
        return loss_M

    finite_NM = logits_MNC.detach().isfinite().all(dim=2).T
    right_NS = (logits_MNC.detach().argmax(dim=2) == labels_N).T & finite_NM
    gate_NST = _gate_weights(right_NS, coefficients, ramp)
    if terms.prob_closer or terms.prob_apart:
        log_NMC = log_probability_MNC.transpose(0, 1)
        pairs = probability_losses(
            _only_finite(log_NMC.detach(), finite_NM), log_NMC, closer=terms.prob_closer, apart=terms.prob_apart
        )
        gated_NT = _gated(pairs, Elementary.PROB_CLOSER, Elementary.PROB_APART, coefficients, gate_NST, finite_NM)
        loss_M = loss_M + gated_NT.mean(dim=0)
    if terms.attention_closer or terms.attention_apart:
        maps_NMP = at_least_float32(output.maps_MNHW).flatten(2).transpose(0, 1)
        finite_NM = maps_NMP.detach().isfinite().all(dim=2)
        pairs = attention_losses(
            _only_finite(maps_NMP.detach(), finite_NM),
            maps_NMP,
            windows,
            closer=terms.attention_closer,
            apart=terms.attention_apart,
        )
        gated_NT = _gated(
            pairs, Elementary.ATTENTION_CLOSER, Elementary.ATTENTION_APART, coefficients, gate_NST, finite_NM
        )
        loss_M = loss_M + gated_NT.mean(dim=0)
    return loss_M


def _label_losses(
    output: EnsembleOutput, log_probability_MNC: Tensor, labels_N: Tensor, coefficients: GraphCoefficients, ramp: Tensor
) -> Tensor:
    """(M,): gated cross-entropy with the labels, of each node's classifiers together. Source: paper Eq. 15."""
    index_MN1 = labels_N.expand(log_probability_MNC.shape[0], -1).unsqueeze(2)
    cross_entropy_MN = -log_probability_MNC.gather(2, index_MN1).squeeze(2)
    for extra_MNC in output.extra_logits_MNC:
        log_MNC = F.log_softmax(at_least_float32(extra_MNC), dim=2)
        cross_entropy_MN = cross_entropy_MN - log_MNC.gather(2, index_MN1).squeeze(2)
    weight_M = coefficients.label_through_M + coefficients.label_linear_M * ramp
    return _weighted(weight_M, cross_entropy_MN.mean(dim=1))


def _gate_weights(right_NS: Tensor, coefficients: GraphCoefficients, ramp: Tensor) -> Tensor:
    """(N, S, T): what each edge's gate multiplies each sample's loss by. Source: paper Eq. 8-11."""
    steady_ST = coefficients.through_ST + coefficients.linear_ST * ramp
    return steady_ST + coefficients.correct_ST * right_NS.unsqueeze(2)


def _gated(
    pairs: PairLosses,
    closer: Elementary,
    apart: Elementary,
    coefficients: GraphCoefficients,
    gate_NST: Tensor,
    finite_NS: Tensor,
) -> Tensor:
    """(N, T): the two losses of a pair under the graph's designs and gates, summed over the sources."""
    # A source that is not finite was replaced before the products, where 0 x nan would reach all targets. Those that it
    # does teach get the nan back here.
    broken_NS1 = torch.where(finite_NS, 0.0, torch.nan).to(gate_NST.dtype).unsqueeze(2)
    weight_NST = torch.where(gate_NST != 0, gate_NST + broken_NS1, 0)
    gated_NST = [
        _weighted(torch.where(coefficients.design_LST[part] > 0, weight_NST, 0), loss_NST)
        for part, loss_NST in ((closer, pairs.closer_NST), (apart, pairs.apart_NST))
        if loss_NST is not None
    ]
    first_NST, *others_NST = gated_NST
    return sum(others_NST, start=first_NST).sum(dim=1)


def _weighted(weight: Tensor, loss: Tensor) -> Tensor:
    """Weight times loss, and 0 where the weight is 0 even if the loss is not finite."""
    return torch.where(weight != 0, weight * loss, 0)


def _only_finite(values_NMX: Tensor, finite_NM: Tensor) -> Tensor:
    return torch.where(finite_NM.unsqueeze(2), values_NMX, 0)
