"""The training step as one would write it from the paper: an edge at a time, one plain SGD a node, waits for each loss.

Written for comparison, in the style of the method's public code; no line of it is that code.
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhpc.config.schema import TrainingConfig
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.networks.build import Network
from kdhpc.networks.heads import PlainHead
from kdhpc.networks.output import NetworkOutput
from kdhpc.training.batches import ImageBatch
from kdhpc.training.compile_folder import keep_private

_PROB_CLOSER = (Design.PROB_CLOSER, Design.BOTH_CLOSER)
_PROB_APART = (Design.PROB_APART, Design.BOTH_APART)
_ATTENTION_CLOSER = (Design.ATTENTION_CLOSER, Design.BOTH_CLOSER)
_ATTENTION_APART = (Design.ATTENTION_APART, Design.BOTH_APART)


def _probability_loss(edge: DistillationEdge, source: NetworkOutput, target: NetworkOutput) -> Tensor:
    """(N,): of the edge's design, 0 where that has none. Source: paper Eq. 3-5."""
    p_s, log_p_t = F.softmax(source.logits.detach(), dim=1), F.log_softmax(target.logits, dim=1)
    loss_N = torch.zeros(len(p_s), device=p_s.device)
    if edge.design in _PROB_CLOSER:
        loss_N = loss_N + (p_s * (p_s.log() - log_p_t)).sum(dim=1)
    if edge.design in _PROB_APART:
        loss_N = loss_N + (F.normalize(p_s, dim=1) * F.normalize(log_p_t.exp(), dim=1)).sum(dim=1)
    return loss_N


class PerSampleLosses:
    """Crops are cut out of one sample's maps after the other."""

    def __init__(self, crops: Sequence[int]) -> None:
        self._crops = crops

    def __call__(self, edge: DistillationEdge, source: NetworkOutput, target: NetworkOutput) -> Tensor:
        """(N,): the ungated loss of an edge. Source: paper Eq. 3-7 and 13."""
        loss_N = _probability_loss(edge, source, target)
        if edge.design not in _ATTENTION_CLOSER + _ATTENTION_APART:
            return loss_N
        closer = edge.design in _ATTENTION_CLOSER
        losses = []
        for source_map, target_map in zip(source.attention_map.detach(), target.attention_map, strict=True):
            peak = int(source_map.argmax())
            loss = torch.zeros((), device=source_map.device)
            for side in self._crops:
                q_s = F.normalize(_crop(source_map, peak, side), dim=0)
                q_t = F.normalize(_crop(target_map, peak, side), dim=0)
                loss = loss + (((q_s - q_t) ** 2).mean() if closer else q_s @ q_t) / len(self._crops)
            losses.append(loss)
        return loss_N + torch.stack(losses)


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
        loss_N = _probability_loss(edge, source, target)
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


def plain_answer(network: Network, images: Tensor) -> NetworkOutput:
    """What our network computes, layer by layer as it is published."""
    head = network.head
    shared = network.lower(images)
    if isinstance(head, PlainHead):
        features = head.layer4(shared)
        return NetworkOutput(head.fc(_pooled(features)), features.float().pow(2).mean(dim=1))
    evidence = head.evidence(shared)
    attention_logits = _pooled(head.attention_fc(evidence))
    attention_map = head.attention_map(evidence).sigmoid()
    weighted = shared * attention_map
    features = head.layer4(weighted + shared if head.residual else weighted)
    return NetworkOutput(head.fc(_pooled(features)), attention_map[:, 0].float(), (attention_logits,))


def _pooled(features: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(features, 1).flatten(1)


class PublishedLoop:
    """Networks are copies of those given, in contiguous memory, and run as they are published.

    Args:
        networks: Of the nodes.
        graph: Who teaches whom.
        config: Of the optimisers.
        edge_losses: How the losses of an edge are computed.
        waits: Look at every loss, as a loop does that skips nodes without one and logs the others.
        autocast: Half precision of the networks; none: float32.
        compiles: One program of all networks and losses, which serves this graph alone.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        graph: GraphSpec,
        config: TrainingConfig,
        edge_losses: EdgeLosses,
        *,
        waits: bool = True,
        autocast: torch.dtype | None = None,
        compiles: bool = False,
    ) -> None:
        self.networks = [copy.deepcopy(network) for network in networks]
        for network in self.networks:
            network.to(memory_format=torch.contiguous_format)
        self._graph = graph
        self._edge_losses = edge_losses
        self._waits = waits
        self._autocast = autocast
        self._forward: Callable[[Tensor, Tensor, Tensor], list[Tensor]] = self._all_losses
        if compiles:
            problem = keep_private()
            assert problem is None, problem
            self._forward = torch.compile(self._all_losses, dynamic=False)
        self._optimizers = [
            torch.optim.SGD(
                network.parameters(),
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
            )
            for network in self.networks
        ]

    def step(self, batch: ImageBatch, ramp: float, learning_rate: float) -> list[float]:
        """Learn a batch; gives the losses before the update, none where it does not wait for them."""
        losses = self._forward(batch.images.contiguous(), batch.labels, torch.tensor(ramp, device=batch.images.device))
        for loss, optimizer in zip(losses, self._optimizers, strict=True):
            if not loss.requires_grad or (self._waits and loss.item() == 0):
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return [loss.item() for loss in losses] if self._waits else []

    def answers(self, images: Tensor) -> list[NetworkOutput]:
        """Of all networks."""
        with torch.autocast(images.device.type, self._autocast, enabled=self._autocast is not None):
            return [plain_answer(network, images) for network in self.networks]

    def _all_losses(self, images: Tensor, labels: Tensor, ramp: Tensor) -> list[Tensor]:
        return self.losses(self.answers(images), labels, ramp)

    def losses(self, outputs: Sequence[NetworkOutput], labels: Tensor, ramp: Tensor | float) -> list[Tensor]:
        """Of each node. Source: paper Eq. 8-11 and 14-15."""
        return [self._node_loss(node, outputs, labels, ramp) for node in range(self._graph.num_nodes)]

    def _node_loss(self, node: int, outputs: Sequence[NetworkOutput], labels: Tensor, ramp: Tensor | float) -> Tensor:
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
