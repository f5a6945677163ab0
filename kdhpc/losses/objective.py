"""The objective of a graph: the loss of each node.

Dimension suffixes: see ``coefficients.py``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.losses.coefficients import GraphCoefficients, Terms
from kdhpc.losses.distillation import CropWindows, PairLosses, attention_losses, probability_losses
from kdhpc.losses.kinds import BUILT_IN_KINDS, KindsCode, PluginLoss, WeightFunction
from kdhpc.losses.precision import at_least_float32

_LOG_FLOOR = -1e30
"""Smallest log-probability. Unlike -inf, it gives 0 when it is multiplied by a probability of 0."""


class MapLevel(NamedTuple):
    """Attention maps at the size at which some pairs of nodes are compared, where nodes have maps of several sizes."""

    maps_MNHW: Tensor
    """(M, N, H, W): larger maps are averaged down to this size; those of nodes with smaller maps do not matter, if they
    are finite."""
    windows: CropWindows
    """The crop windows for maps of this size."""
    pairs_ST: Tensor
    """(M, M), bool: the pairs that are compared at this size, which is that of the smaller map of the two."""


class EnsembleOutput(NamedTuple):
    """The outputs of all nodes for one batch."""

    logits_MNC: Tensor
    """(M, N, C): the logits that nodes are scored, distilled and averaged by."""
    maps_MNHW: Tensor
    """(M, N, H, W): the attention maps. Where maps have several sizes: of the largest, as in `MapLevel`."""
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
    label_smoothing: float = 0.0,
    code: KindsCode = BUILT_IN_KINDS.code,
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
        terms: Which of the paper's elementary losses to compute; these must include all that the graph uses.
        label_smoothing: 0 to below 1: share of the label loss's target that is spread evenly over the C classes.
        code: Elementary losses of plug-ins and all gates, in the order that the coefficients have them.

    Returns:
        (M,), the loss of each node.

    Source: paper Eq. 8-11 and 13-15. A ``correct`` gate's sum is divided by the full N.
    """
    logits_MNC = at_least_float32(output.logits_MNC)
    log_probability_MNC = F.log_softmax(logits_MNC, dim=2).clamp_min(_LOG_FLOOR)
    loss_M = _label_losses(output, log_probability_MNC, labels_N, coefficients, ramp, code.weights, label_smoothing)
    if not any(terms) and not any(loss is not None for loss in code.losses):
        return loss_M

    answer_NM, broken_answer_NM = _highest(logits_MNC.detach().transpose(0, 1))
    right_NM = (answer_NM == labels_N.unsqueeze(1)) & broken_answer_NM.logical_not()
    gate_NST = _gate_weights(right_NM.to(logits_MNC.dtype), coefficients, ramp, code.weights)
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
    more = [_plugin_loss(output, logits_MNC, loss) for loss in code.losses]
    losses = (*probability, *attention, *(loss_NST for loss_NST, _ in more))
    broken = [broken_answer_NM, broken_answer_NM, broken_map_NM, broken_map_NM, *(broken_NM for _, broken_NM in more)]
    return loss_M + _gated(losses, coefficients, gate_NST, torch.stack(broken))


def _plugin_loss(output: EnsembleOutput, logits_MNC: Tensor, loss: PluginLoss | None) -> tuple[Tensor | None, Tensor]:
    """An elementary loss of a plug-in, (N, S, T), or None if it is not needed; (N, S), NaN where a source is broken."""
    if loss is None:
        return None, logits_MNC.new_zeros(logits_MNC.shape[1], len(logits_MNC))
    if loss.compares == "probability":
        return _compared(loss, logits_MNC)
    loss_NST, broken_NS = _compared(loss, at_least_float32(output.maps_MNHW))
    for level in output.smaller:
        at_level_NST, broken_level_NS = _compared(loss, at_least_float32(level.maps_MNHW))
        loss_NST = torch.where(level.pairs_ST, at_level_NST, loss_NST)
        broken_NS = broken_NS + broken_level_NS
    return loss_NST.to(logits_MNC.dtype), broken_NS.to(logits_MNC.dtype)


def _compared(loss: PluginLoss, compared: Tensor) -> tuple[Tensor, Tensor]:
    """The same for logits, or maps of one size, (M, N, ...)."""
    target = compared.transpose(0, 1)
    source = target.detach()
    return loss.function(_finite(source), target).to(compared.dtype), (0 * source.flatten(2)).sum(dim=2)


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
    output: EnsembleOutput,
    log_probability_MNC: Tensor,
    labels_N: Tensor,
    coefficients: GraphCoefficients,
    ramp: Tensor,
    weights: tuple[WeightFunction, ...],
    smoothing: float,
) -> Tensor:
    """(M,): gated cross-entropy with the labels, summed over each node's classifiers. Source: paper Eq. 15."""
    num_nodes = log_probability_MNC.shape[0]
    labels = labels_N.repeat(num_nodes)
    log_probability = log_probability_MNC.flatten(0, 1)
    cross_entropy = F.nll_loss(log_probability, labels, reduction="none")
    if smoothing:  # As `F.cross_entropy`, whose softmax the distillation has computed already.
        cross_entropy = torch.lerp(cross_entropy, -log_probability.mean(dim=1), smoothing)
    for index, extra_MNC in enumerate(output.extra_logits_MNC):
        logits = at_least_float32(extra_MNC).flatten(0, 1)
        extra = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        if output.has_extra_M:
            extra = extra * output.has_extra_M[index].repeat_interleave(len(labels_N))
        cross_entropy = cross_entropy + extra
    right_11 = ramp.new_ones(1, 1)  # Labels are always right.
    weight_M = torch.zeros_like(coefficients.label_gate_GM[0])
    for label_gate_M, weight in zip(coefficients.label_gate_GM, weights, strict=True):
        weight_M = torch.addcmul(weight_M, label_gate_M, weight(ramp, right_11).reshape(()))
    loss_M = cross_entropy.view(num_nodes, -1).mean(dim=1)
    return weight_M * loss_M.masked_fill(weight_M.logical_not(), 0)


def _gate_weights(
    right_NS: Tensor, coefficients: GraphCoefficients, ramp: Tensor, weights: tuple[WeightFunction, ...]
) -> Tensor:
    """(N, S, T): the weight that each edge's gate gives to each sample's loss. Source: paper Eq. 8-11."""
    num_nodes = right_NS.shape[1]
    total = right_NS.new_zeros(len(right_NS), num_nodes, num_nodes)
    for gate_ST, weight in zip(coefficients.gate_GST, weights, strict=True):
        total = torch.addcmul(total, gate_ST, weight(ramp, right_NS).expand_as(right_NS).unsqueeze(2))
    return total


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
