"""Small images in memory, as pure a function of seed and epoch as the packed data."""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, NetworkConfig, ObjectiveConfig, TrainingConfig
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.setting import TrainingSetting

NUM_CLASSES = 4
IMAGE_SIZE = 12
NETWORK = NetworkConfig(name="resnet8", crops=(1, 3))
ATTENTION_BRANCH = NetworkConfig(name="abn_resnet8", crops=(1, 3))
CPU = DeviceConfig(device="cpu", channels_last=False)
OBJECTIVE = ObjectiveConfig()


@dataclass(frozen=True)
class MemoryBatch:
    images: Tensor
    labels: Tensor


def images_of(num_images, seed=0):
    """Each class is a bright quadrant in noise: learnable within a few steps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_images) % NUM_CLASSES
    images = 0.5 * torch.randn(num_images, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    half = IMAGE_SIZE // 2
    for index, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[index, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 1
    return images, labels


class MemoryTrain:
    image_size = IMAGE_SIZE

    def __init__(self, *, num_images=16, batch_size=4):
        self.num_images = num_images
        self.batch_size = batch_size
        self.steps_per_epoch = num_images // batch_size

    placement = "resident"

    # Made when they are wanted: a learner may be made of tensors without values.
    @functools.cached_property
    def images(self):
        return images_of(self.num_images)[0]

    @functools.cached_property
    def labels(self):
        return images_of(self.num_images)[1]

    def epoch(self, seed, epoch, first_step=0):
        return map(self.make, self.specs(seed, epoch, first_step))

    def make(self, spec):
        return MemoryBatch(*spec)

    def specs(self, seed, epoch, first_step=0):
        generator = torch.Generator().manual_seed((1000 * seed + epoch) % 2**63)
        order = torch.randperm(len(self.labels), generator=generator)
        for step in range(first_step, self.steps_per_epoch):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.images[chosen], self.labels[chosen]


class MemoryEval:
    def __init__(self, *, num_images=10, batch_size=4):
        self.num_images = num_images
        self.batch_size = batch_size

    @functools.cached_property
    def images(self):
        return images_of(self.num_images, seed=1)[0]

    @functools.cached_property
    def labels(self):
        return images_of(self.num_images, seed=1)[1]

    def __iter__(self):
        for images, labels in zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            yield MemoryBatch(images, labels)


def training_config(**changes):
    return TrainingConfig(**{"epochs": 3, "batch_size": 4, "learning_rate": 0.05, "milestones": (3,)} | changes)


def runtime_of(device=CPU, *, target=None, programs=None, auto=None):
    """What a device config means, or the programs that a test is about."""
    runtime = resolve_runtime(device, device=None if target is None else torch.device(target))
    return replace(runtime, given_programs=programs, auto=auto)


def setting_of(*, network=NETWORK, training=None, runtime=None, **changes):
    """What a training of images in memory is given."""
    fields = {
        "network": network,
        "objective": OBJECTIVE,
        "training": training or training_config(),
        "runtime": runtime or runtime_of(),
        "train": MemoryTrain(),
        "evaluation": MemoryEval(),
        "num_classes": NUM_CLASSES,
    }
    return TrainingSetting(**{**fields, **changes})


def graph_of(gates, *, labels, design=Design.BOTH_CLOSER):
    """From a matrix of gates, [source][target]; the diagonal is not looked at."""
    num_nodes = len(labels)
    return GraphSpec(
        label_gates=tuple(labels),
        edges=tuple(
            DistillationEdge(source=s, target=t, design=design, gate=gates[s][t])
            for s in range(num_nodes)
            for t in range(num_nodes)
            if s != t
        ),
    )


def mutual(design=Design.BOTH_CLOSER, gate=Gate.THROUGH, num_nodes=2, label=Gate.THROUGH):
    """All nodes learn the labels and from each other."""
    return graph_of([[gate] * num_nodes] * num_nodes, labels=[label] * num_nodes, design=design)
