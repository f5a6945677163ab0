"""The training step as one would write it from the paper: an edge at a time, a crop at a time, one plain SGD a node."""

import copy

import torch
import torch.nn.functional as F

from kdhpc.graph.spec import Design, Gate


def crop(attention_map, peak, side):
    rows, columns = attention_map.shape
    row, column = divmod(int(peak), columns)
    top = min(max(row - side // 2, 0), rows - side)
    left = min(max(column - side // 2, 0), columns - side)
    return attention_map[top : top + side, left : left + side].flatten()


def edge_loss(edge, source, target, labels, ramp, crops):
    losses = []
    p_s, log_p_t = F.softmax(source.logits.detach(), dim=1), F.log_softmax(target.logits, dim=1)
    for n in range(len(labels)):
        loss = 0.0
        if edge.design in (Design.PROB_CLOSER, Design.BOTH_CLOSER):
            loss = loss + (p_s[n] * (p_s[n].log() - log_p_t[n])).sum()
        if edge.design in (Design.PROB_APART, Design.BOTH_APART):
            loss = loss + F.normalize(p_s[n], dim=0) @ F.normalize(log_p_t[n].exp(), dim=0)
        if edge.design not in (Design.PROB_CLOSER, Design.PROB_APART):
            source_map, target_map = source.attention_map[n].detach(), target.attention_map[n]
            peak = source_map.argmax()
            for side in crops:
                q_s = F.normalize(crop(source_map, peak, side), dim=0)
                q_t = F.normalize(crop(target_map, peak, side), dim=0)
                closer = edge.design in (Design.ATTENTION_CLOSER, Design.BOTH_CLOSER)
                loss = loss + (((q_s - q_t) ** 2).mean() if closer else q_s @ q_t) / len(crops)
        losses.append(loss)
    loss_N = torch.stack(losses)
    if edge.gate is Gate.LINEAR:
        loss_N = loss_N * ramp
    if edge.gate is Gate.CORRECT:
        loss_N = loss_N * (source.logits.argmax(dim=1) == labels)
    return loss_N.mean()


class PublishedStyle:
    """Networks are copies of those given."""

    def __init__(self, networks, graph, config, crops):
        self.networks = [copy.deepcopy(network) for network in networks]
        self.graph, self.config, self.crops = graph, config, crops
        self.optimizers = [
            torch.optim.SGD(
                network.parameters(),
                lr=config.learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                fused=False,
            )
            for network in self.networks
        ]

    def step(self, batch, ramp, learning_rate):
        outputs = [network(batch.images) for network in self.networks]
        losses = []
        for node, gate in enumerate(self.graph.label_gates):
            loss = torch.zeros(())
            if gate is not Gate.CUTOFF:
                hard = F.cross_entropy(outputs[node].logits, batch.labels)
                for extra in outputs[node].extra_hard_logits:
                    hard = hard + F.cross_entropy(extra, batch.labels)
                loss = loss + (hard * ramp if gate is Gate.LINEAR else hard)
            for edge in self.graph.edges:
                if edge.target == node and edge.gate is not Gate.CUTOFF:
                    loss = loss + edge_loss(edge, outputs[edge.source], outputs[node], batch.labels, ramp, self.crops)
            losses.append(loss)
        for loss, optimizer in zip(losses, self.optimizers, strict=True):
            if loss.item() != 0:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return [loss.item() for loss in losses]
