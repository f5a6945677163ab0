"""The objective of a graph: the loss of each node.

Dimension suffixes: see ``coefficients.py``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.coefficients import GraphCoefficients, Terms
from kdhpc.losses.distillation import CropWindows, PairLosses, attention_losses, probability_losses
from kdhpc.losses.precision import at_least_float32

_LOG_FLOOR = -1e30
"""Smallest log-probability. Unlike -inf, it gives 0 when it is multiplied by a probability of 0."""


class MapLevel(NamedTuple):
    """Attention maps at the size at which some pairs of nodes are compared, where nodes have maps of several sizes."""

    maps_MNHW: Tensor
    """(M, N, H, W): larger maps are averaged down to this size; zeros for nodes with smaller maps."""
    windows: CropWindows
    """The crop windows for maps of this size."""
    pairs_ST: Tensor
    """(M, M), bool: the pairs that are compared at this size, which is that of the smaller map of the two."""


class EnsembleOutput(NamedTuple):
    """The outputs of all nodes for one batch."""

    logits_MNC: Tensor
    """(M, N, C): the logits that nodes are scored, distilled and averaged by."""
    maps_MNHW: Tensor
    """(M, N, H, W): the attention maps. Where maps have several sizes: of the largest, zeros for all other nodes."""
    extra_logits_MNC: tuple[Tensor, ...] = ()
    """(M, N, C) each: logits of further classifiers, which count in the label loss only."""
    smaller: tuple[MapLevel, ...] = ()
    """The smaller sizes of maps, if there are several sizes."""
    has_extra_M: tuple[Tensor, ...] = ()
    """(M,) for each of ``extra_logits_MNC``, if some nodes lack that classifier: 1 where a node has it, else 0. The
    logits of the others do not matter, if they are finite."""


def node_losses(
    output: EnsembleOutput,
    labels_N: Tensor,
    coefficients: GraphCoefficients,
    windows: CropWindows,
    ramp: Tensor,
    *,
    terms: Terms,
) -> Tensor:
    """The loss L_t of every node t: its gated label loss plus the gated losses of the edges into it, averaged over N.

    The loss of a node has gradients for that node only. It is computed in float32 or float64, whatever precision the
    networks ran in.

    Attention maps of different sizes are compared at the size of the smaller one of each pair: the larger one is
    averaged down by adaptive average pooling, whether it is the source's or the target's. Other pairs of the same node
    may be compared at another size.

    If the output of a source is not finite, then the losses of the nodes that it teaches are not finite either; no
    other loss is affected. Under a ``correct`` gate, logits that are not finite count as a wrong prediction.

    Args:
        output: The outputs of all nodes for the same samples.
        labels_N: (N,) class indices, 0 to C - 1.
        coefficients: The graph.
        windows: The crop windows for maps of this size.
        ramp: The weight of ``linear`` gates, k / k_end: a scalar tensor from 0 to 1.
        terms: Which elementary losses to compute; these must include all that the graph uses.

    Returns:
        (M,), the loss of each node.

    Source: paper Eq. 8-11 and 13-15. A ``correct`` gate's sum is divided by the full N.
    """
    logits_MNC = at_least_float32(output.logits_MNC)
    log_probability_MNC = F.log_softmax(logits_MNC, dim=2).clamp_min(_LOG_FLOOR)
    loss_M = _label_losses(output, log_probability_MNC, labels_N, coefficients, ramp)
    if not any(terms):
        return loss_M

    answer_NM, broken_answer_NM = _highest(logits_MNC.detach().transpose(0, 1))
    right_NM = (answer_NM == labels_N.unsqueeze(1)) & broken_answer_NM.logical_not()
    gate_NST = _gate_weights(right_NM, coefficients, ramp)
    probability = attention = PairLosses(None, None)
    broken_map_NM = broken_answer_NM
    if terms.prob_closer or terms.prob_apart:
        log_NMC = log_probability_MNC.transpose(0, 1)
        probability = probability_losses(
            _finite(log_NMC.detach()), log_NMC, closer=terms.prob_closer, apart=terms.prob_apart
        )
    if terms.attention_closer or terms.attention_apart:
        attention, broken_map_NM = _attention(output.maps_MNHW, windows, terms)
        for level in output.smaller:
            at_level, broken_NM = _attention(level.maps_MNHW, level.windows, terms)
            attention = PairLosses(*(_chosen(level.pairs_ST, *two) for two in zip(at_level, attention, strict=True)))
            broken_map_NM = broken_map_NM + broken_NM
    broken_LNM = torch.stack([broken_answer_NM, broken_answer_NM, broken_map_NM, broken_map_NM])
    return loss_M + _gated((*probability, *attention), coefficients, gate_NST, broken_LNM)


def _attention(maps_MNHW: Tensor, windows: CropWindows, terms: Terms) -> tuple[PairLosses, Tensor]:
    """The attention losses of all pairs by maps of one size; and (N, M), NaN where a source's map is not finite."""
    maps_NMP = at_least_float32(maps_MNHW).flatten(2).transpose(0, 1)
    source_NMP = maps_NMP.detach()
    peak_NM, broken_map_NM = _highest(source_NMP)
    losses = attention_losses(
        _finite(source_NMP),
        maps_NMP,
        peak_NM,
        windows,
        closer=terms.attention_closer,
        apart=terms.attention_apart,
    )
    return losses, broken_map_NM


def _chosen(pairs_ST: Tensor, inside_NST: Tensor | None, outside_NST: Tensor | None) -> Tensor | None:
    """One loss for the pairs of a level, another for all others."""
    if inside_NST is None or outside_NST is None:
        return None
    return torch.where(pairs_ST, inside_NST, outside_NST)


def _label_losses(
    output: EnsembleOutput, log_probability_MNC: Tensor, labels_N: Tensor, coefficients: GraphCoefficients, ramp: Tensor
) -> Tensor:
    """(M,): gated cross-entropy with the labels, summed over each node's classifiers. Source: paper Eq. 15."""
    num_nodes = log_probability_MNC.shape[0]
    labels = labels_N.repeat(num_nodes)
    cross_entropy = F.nll_loss(log_probability_MNC.flatten(0, 1), labels, reduction="none")
    for index, extra_MNC in enumerate(output.extra_logits_MNC):
        extra = F.cross_entropy(at_least_float32(extra_MNC).flatten(0, 1), labels, reduction="none")
        if output.has_extra_M:
            extra = extra * output.has_extra_M[index].repeat_interleave(len(labels_N))
        cross_entropy = cross_entropy + extra
    weight_M = torch.addcmul(coefficients.label_through_M, coefficients.label_linear_M, ramp)
    loss_M = cross_entropy.view(num_nodes, -1).mean(dim=1)
    return weight_M * loss_M.masked_fill(weight_M.logical_not(), 0)


def _gate_weights(right_NS: Tensor, coefficients: GraphCoefficients, ramp: Tensor) -> Tensor:
    """(N, S, T): the weight that each edge's gate gives to each sample's loss. Source: paper Eq. 8-11."""
    steady_ST = torch.addcmul(coefficients.through_ST, coefficients.linear_ST, ramp)
    return steady_ST + coefficients.correct_ST * right_NS.unsqueeze(2)


def _gated(
    losses: tuple[Tensor | None, ...], coefficients: GraphCoefficients, gate_NST: Tensor, broken_LNS: Tensor
) -> Tensor:
    """(T,): the elementary losses (N, S, T) under the graph's designs and gates, averaged over N, summed over sources.

    Args:
        losses: The L elementary losses; None: no edge has this one.
        coefficients: The graph.
        gate_NST: The weights that gates give to losses.
        broken_LNS: NaN where the source's side of a loss is not finite, else 0.
    """
    absent_NST = torch.zeros_like(gate_NST)
    loss_LNST = torch.stack([absent_NST if loss_NST is None else loss_NST for loss_NST in losses])
    unused_LNST = (coefficients.design_LST.unsqueeze(1) * gate_NST).logical_not()
    # A source that is not finite was replaced by zeros before the matrix products, where 0 x NaN would have reached all
    # targets. Here the targets that it teaches get the NaN back. A target that is not finite counts only where an edge
    # teaches it.
    weight_LNST = (gate_NST / len(gate_NST) + broken_LNS.unsqueeze(3)).masked_fill(unused_LNST, 0)
    return (weight_LNST * loss_LNST.masked_fill(unused_LNST, 0)).sum(dim=(0, 1, 2))


def _highest(values_NMX: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each node's highest value, and 0 where all of its values are finite, else NaN. Both (N, M)."""
    place_NM = values_NMX.max(dim=2).indices  # On a CPU twice as fast as `argmax`.
    return place_NM, (0 * values_NMX).sum(dim=2)  # A sum of large values would overflow.


def _finite(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=0, posinf=0, neginf=0)
