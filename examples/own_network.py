"""Networks of your own, another one for each node, under a graph of attention losses."""

import torch
from torch import nn

import kdhpc


def make_network(width: int) -> nn.Module:
    """Any module from (N, 3, S, S) to logits (N, C) will do."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 2),
    )


torch.manual_seed(0)
labels = torch.arange(160) % 2
images = (40 * torch.randn(160, 3, 16, 16) + 70 + 110 * labels[:, None, None, None]).clamp(0, 255).byte()
graph = kdhpc.load_graph("uniform:att-", 2)  # Each drives its attention away from the other's.
networks = [make_network(8), make_network(12)]
run = kdhpc.train(graph, dataset=(images, labels), network=networks, epochs=2, batch_size=16)
maps = kdhpc.load(run).attention(images[:4])
print(f"ensemble {run.ensemble_accuracy:.1f} %, attention maps {tuple(maps.shape)}")
