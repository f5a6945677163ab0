"""The paper's losses, an edge and a sample at a time, in NumPy float64. From the equations alone, shares no code."""

import numpy as np

from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec


def softmax(logits):
    shifted = np.exp(logits - np.max(logits))
    return shifted / shifted.sum()


def kl(p, q):
    """Eq. 3."""
    return sum(pc * (np.log(pc) - np.log(qc)) for pc, qc in zip(p, q, strict=True) if pc > 0)


def cosine(p, q):
    """Eq. 5."""
    return float(np.dot(p / np.linalg.norm(p), q / np.linalg.norm(q)))


def normalised(crop):
    """As torch.nn.functional.normalize: divided by the norm, or by 1e-12 where the norm is smaller."""
    return crop / max(np.sqrt((crop**2).sum()), 1e-12)


def window(attention_map, side):
    """Top left corner of the crop around the peak, shifted inside the map."""
    rows, columns = attention_map.shape
    row, column = np.unravel_index(np.argmax(attention_map), attention_map.shape)
    top = min(max(row - side // 2, 0), rows - side)
    left = min(max(column - side // 2, 0), columns - side)
    return top, left


def crops_of(source_map, target_map, side):
    top, left = window(source_map, side)
    cut = (slice(top, top + side), slice(left, left + side))
    return normalised(source_map[cut]), normalised(target_map[cut])


def attention_closer(source_map, target_map, crops, reduction):
    """Eq. 6."""
    total = 0.0
    for side in crops:
        q_s, q_t = crops_of(source_map, target_map, side)
        squares = (q_s - q_t) ** 2
        total += squares.mean() if reduction == "mean" else squares.sum()
    return total / len(crops)


def attention_apart(source_map, target_map, crops):
    """Eq. 7."""
    total = 0.0
    for side in crops:
        q_s, q_t = crops_of(source_map, target_map, side)
        total += (q_s * q_t).sum()
    return total / len(crops)


def edge_loss(design, source, target, crops, reduction):
    """Eq. 13, for one sample; source and target are (logits, map)."""
    p_s, p_t = softmax(source[0]), softmax(target[0])
    loss = 0.0
    if design in (Design.PROB_CLOSER, Design.BOTH_CLOSER):
        loss += kl(p_s, p_t)
    if design in (Design.PROB_APART, Design.BOTH_APART):
        loss += cosine(p_s, p_t)
    if design in (Design.ATTENTION_CLOSER, Design.BOTH_CLOSER):
        loss += attention_closer(source[1], target[1], crops, reduction)
    if design in (Design.ATTENTION_APART, Design.BOTH_APART):
        loss += attention_apart(source[1], target[1], crops)
    return loss


def gated(gate, loss, ramp, right):
    """Eq. 8-11."""
    if gate is Gate.CUTOFF:
        return 0.0
    if gate is Gate.LINEAR:
        return ramp * loss
    if gate is Gate.CORRECT:
        return loss if right else 0.0
    return loss


def node_losses(graph, logits, maps, extra, labels, ramp, crops, reduction):
    """Eq. 14-15. ``logits`` (M, N, C), ``maps`` (M, N, H, W), ``extra`` a list of (M, N, C)."""
    num_nodes, num_samples = logits.shape[:2]
    losses = np.zeros(num_nodes)
    for target in range(num_nodes):
        for n in range(num_samples):
            hard = -np.log(softmax(logits[target, n])[labels[n]])
            for more in extra:
                hard -= np.log(softmax(more[target, n])[labels[n]])
            losses[target] += gated(graph.label_gates[target], hard, ramp, True) / num_samples
        for edge in graph.edges:
            if edge.target != target or edge.gate is Gate.CUTOFF:
                continue
            for n in range(num_samples):
                source = (logits[edge.source, n], maps[edge.source, n])
                loss = edge_loss(edge.design, source, (logits[target, n], maps[target, n]), crops, reduction)
                right = np.argmax(logits[edge.source, n]) == labels[n]
                losses[target] += gated(edge.gate, loss, ramp, right) / num_samples
    return losses


def random_graph(rng, num_nodes):
    """Any of the 4 label gates, 4 gates and 6 designs on each edge."""
    gates, designs = list(Gate), list(Design)
    edges = [
        DistillationEdge(
            source=s,
            target=t,
            design=designs[rng.integers(len(designs))],
            gate=gates[rng.integers(len(gates))],
        )
        for s in range(num_nodes)
        for t in range(num_nodes)
        if s != t
    ]
    labels = tuple(gates[rng.integers(len(gates))] for _ in range(num_nodes))
    return GraphSpec(label_gates=labels, edges=tuple(edges))
