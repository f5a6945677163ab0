"""What the paper's equations say, in NumPy float64, image by image; and networks' answers without kdhpc's batches."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from kdhpc.config.document import read_config
from kdhpc.config.paths import RunPaths, packed_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.networks.build import build_network


def probabilities(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def kl(p, q):
    """Eq. 3, of one image."""
    return sum(p[c] * np.log(p[c] / q[c]) for c in range(len(p)))


def mutual_kl(first, second):
    """Eq. 1, of logits (N, C), mean over the images."""
    pairs = zip(probabilities(first.astype(np.float64)), probabilities(second.astype(np.float64)), strict=True)
    return np.mean([(kl(p, q) + kl(q, p)) / 2 for p, q in pairs])


def accuracy(logits, labels):
    return 100 * np.mean(logits.argmax(axis=1) == labels)


def gain(first, second, labels):
    """Eq. 2, with Eq. 12."""
    both = (first + second) / 2
    return accuracy(both, labels) - (accuracy(first, labels) + accuracy(second, labels)) / 2


def entropy(logits):
    p = probabilities(logits.astype(np.float64))
    return -(p * np.log(p)).sum(axis=-1)


def answers_of(folder: Path, node: int):
    """Logits (N, C), maps (N, H, W), the images as stored, their labels: of all test images, in one forward pass."""
    config = read_config(TrainConfig, RunPaths(folder).config)
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    pixels = torch.from_numpy(np.array(packed.test.images)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(config.dataset.mean or (0.0,)).expand(3).reshape(3, 1, 1)
    std = torch.tensor(config.dataset.std or (1.0,)).expand(3).reshape(3, 1, 1)
    network = build_network(config.network, num_classes=len(packed.classes), image_size=config.dataset.image_size)
    network.load_state_dict(load_file(RunPaths(folder).weights(node)))
    with torch.no_grad():
        output = network.eval()((pixels - mean) / std)
    return output.logits.numpy(), output.attention_map.numpy(), np.asarray(packed.test.images), packed.test.labels
