"""The training step as one would write it from the paper: an edge at a time, one plain SGD a node, waits for each loss.

Written for comparison, in the style of the method's public code; no line of it is that code.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhpc.config.schema import TrainingConfig
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import ImageBatch

_PROB_CLOSER = (Design.PROB_CLOSER, Design.BOTH_CLOSER)
_PROB_APART = (Design.PROB_APART, Design.BOTH_APART)
_ATTENTION_CLOSER = (Design.ATTENTION_CLOSER, Design.BOTH_CLOSER)
_ATTENTION_APART = (Design.ATTENTION_APART, Design.BOTH_APART)


class PerSampleLosses:
    """Crops are cut out of one sample's maps after the other."""

    def __init__(self, crops: Sequence[int]) -> None:
        self._crops = crops

    def __call__(self, edge: DistillationEdge, source: NetworkOutput, target: NetworkOutput) -> Tensor:
        """(N,): the ungated loss of an edge. Source: paper Eq. 3-7 and 13."""
        losses = []
        p_s, log_p_t = F.softmax(source.logits.detach(), dim=1), F.log_softmax(target.logits, dim=1)
        for n in range(len(p_s)):
            loss = torch.zeros((), device=p_s.device)
            if edge.design in _PROB_CLOSER:
                loss = loss + (p_s[n] * (p_s[n].log() - log_p_t[n])).sum()
            if edge.design in _PROB_APART:
                loss = loss + F.normalize(p_s[n], dim=0) @ F.normalize(log_p_t[n].exp(), dim=0)
            if edge.design not in (Design.PROB_CLOSER, Design.PROB_APART):
                source_map, target_map = source.attention_map[n].detach(), target.attention_map[n]
                peak = int(source_map.argmax())
                for side in self._crops:
                    q_s = F.normalize(_crop(source_map, peak, side), dim=0)
                    q_t = F.normalize(_crop(target_map, peak, side), dim=0)
                    closer = edge.design in _ATTENTION_CLOSER
                    loss = loss + (((q_s - q_t) ** 2).mean() if closer else q_s @ q_t) / len(self._crops)
            losses.append(loss)
        return torch.stack(losses)


def _crop(attention_map: Tensor, peak: int, side: int) -> Tensor:
    rows, columns = attention_map.shape
    row, column = divmod(peak, columns)
    top = min(max(row - side // 2, 0), rows - side)
    left = min(max(column - side // 2, 0), columns - side)
    return attention_map[top : top + side, left : left + side].flatten()


class PerEdgeLosses:
    """Crops of all samples are gathered at once; still an edge at a time."""

    def __init__(self, crops: Sequence[int]) -> None:
        self._crops = crops

    def __call__(self, edge: DistillationEdge, source: NetworkOutput, target: NetworkOutput) -> Tensor:
        """(N,): the ungated loss of an edge. Source: paper Eq. 3-7 and 13."""
        p_s, log_p_t = F.softmax(source.logits.detach(), dim=1), F.log_softmax(target.logits, dim=1)
        loss_N = torch.zeros(len(p_s), device=p_s.device)
        if edge.design in _PROB_CLOSER:
            loss_N = loss_N + (p_s * (p_s.log() - log_p_t)).sum(dim=1)
        if edge.design in _PROB_APART:
            loss_N = loss_N + (F.normalize(p_s, dim=1) * F.normalize(log_p_t.exp(), dim=1)).sum(dim=1)
        if edge.design in _ATTENTION_CLOSER + _ATTENTION_APART:
            source_maps = source.attention_map.detach()
            peaks = source_maps.flatten(1).argmax(dim=1)
            for side in self._crops:
                q_s = F.normalize(_crops(source_maps, peaks, side), dim=1)
                q_t = F.normalize(_crops(target.attention_map, peaks, side), dim=1)
                closer = edge.design in _ATTENTION_CLOSER
                part = ((q_s - q_t) ** 2).mean(dim=1) if closer else (q_s * q_t).sum(dim=1)
                loss_N = loss_N + part / len(self._crops)
        return loss_N


def _crops(maps: Tensor, peaks: Tensor, side: int) -> Tensor:
    """(N, side * side)."""
    num, rows, columns = maps.shape
    top = (peaks // columns - side // 2).clamp(0, rows - side)
    left = (peaks % columns - side // 2).clamp(0, columns - side)
    steps = torch.arange(side, device=maps.device)
    pixels = (top[:, None] + steps)[:, :, None] * columns + (left[:, None] + steps)[:, None, :]
    return maps.flatten(1).gather(1, pixels.reshape(num, -1))


EdgeLosses = PerSampleLosses | PerEdgeLosses


class PublishedLoop:
    """Networks are copies of those given, in contiguous memory.

    Args:
        networks: Of the nodes.
        graph: Who teaches whom.
        config: Of the optimisers.
        edge_losses: How the losses of an edge are computed.
        waits: Look at every loss, as a loop does that skips nodes without one and logs the others.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        graph: GraphSpec,
        config: TrainingConfig,
        edge_losses: EdgeLosses,
        *,
        waits: bool = True,
    ) -> None:
        self.networks = [copy.deepcopy(network) for network in networks]
        for network in self.networks:
            network.to(memory_format=torch.contiguous_format)
        self._graph = graph
        self._edge_losses = edge_losses
        self._waits = waits
        self._optimizers = [
            torch.optim.SGD(
                network.parameters(),
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                fused=False,
            )
            for network in self.networks
        ]

    def step(self, batch: ImageBatch, ramp: float, learning_rate: float) -> list[float]:
        """Learn a batch; gives the losses before the update, none where it does not wait for them."""
        outputs: list[NetworkOutput] = [network(batch.images.contiguous()) for network in self.networks]
        losses = self.losses(outputs, batch.labels, ramp)
        for loss, optimizer in zip(losses, self._optimizers, strict=True):
            if not loss.requires_grad or (self._waits and loss.item() == 0):
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [loss.item() for loss in losses] if self._waits else []

    def losses(self, outputs: Sequence[NetworkOutput], labels: Tensor, ramp: float) -> list[Tensor]:
        """Of each node. Source: paper Eq. 8-11 and 14-15."""
        return [self._node_loss(node, outputs, labels, ramp) for node in range(self._graph.num_nodes)]

    def _node_loss(self, node: int, outputs: Sequence[NetworkOutput], labels: Tensor, ramp: float) -> Tensor:
        loss = torch.zeros((), device=labels.device)
        gate = self._graph.label_gates[node]
        if gate is not Gate.CUTOFF:
            hard = F.cross_entropy(outputs[node].logits, labels)
            for extra in outputs[node].extra_hard_logits:
                hard = hard + F.cross_entropy(extra, labels)
            loss = loss + (hard * ramp if gate is Gate.LINEAR else hard)
        for edge in self._graph.edges:
            if edge.target != node or edge.gate is Gate.CUTOFF:
                continue
            loss_N = self._edge_losses(edge, outputs[edge.source], outputs[node])
            if edge.gate is Gate.LINEAR:
                loss_N = loss_N * ramp
            if edge.gate is Gate.CORRECT:
                loss_N = loss_N * (outputs[edge.source].logits.argmax(dim=1) == labels)
            loss = loss + loss_N.mean()
        return loss
