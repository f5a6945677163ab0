"""What is trained in the checks: configs, noise for images, trainings."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, ObjectiveConfig, SearchConfig, TrainingConfig
from kdhpc.data.batches import Batch, TrainBatches
from kdhpc.graph.space import SearchSpace
from kdhpc.graph.spec import GraphSpec
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.names import architecture
from kdhpc.training.batches import EvalSource, TrainSource
from kdhpc.training.compile import Programs, programs
from kdhpc.training.cuda_graph import Record, Recorder, record_cuda_graph
from kdhpc.training.device import Precision
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.setting import TrainingSetting
from tools.benchmarks import noise
from tools.gpu_checks.check import Scale

NUM_CLASSES = 100


class Replayed:
    """Stands for a CUDA graph where there is no GPU: does the work again, and gives its result in the same tensor."""

    def __call__(self, function: "_Work") -> "_Work":
        """As `record_cuda_graph`."""
        output: Tensor | None = None

        def replay() -> Tensor:
            nonlocal output
            result = function()
            output = result.clone() if output is None else output.copy_(result)
            return output

        return replay


class _Work(Protocol):
    def __call__(self) -> Tensor: ...


def device_of(scale: Scale) -> torch.device:
    """Where the checks compute."""
    return torch.device("cpu" if scale.cpu else "cuda")


def pixels_of(scale: Scale, network: str) -> int:
    """S of that network."""
    return scale.small_px if architecture(network).family == "cifar" else scale.large_px


def random_graph(num_nodes: int, number: int, *, seed: int = 0) -> GraphSpec:
    """One that a search would draw."""
    return SearchSpace(num_nodes=num_nodes).graph(seed, number)


def recorder_of(scale: Scale) -> Record:
    """What records steps."""
    return Replayed() if scale.cpu else record_cuda_graph


def programs_of(scale: Scale, record: Record | None) -> Programs:
    """The programs of the checks, whose steps something records, or nothing."""
    plain = programs(scale.backend, batch_backend=None if scale.cpu else scale.backend, combines=scale.compiles)
    # The same programs: what plain steps have compiled serves recorded ones.
    return dataclasses.replace(plain, recorder=Recorder(record))


def config_of(
    scale: Scale,
    network: str,
    *,
    num_nodes: int | None = None,
    device: DeviceConfig | None = None,
    objective: ObjectiveConfig | None = None,
    training: TrainingConfig | None = None,
) -> SearchConfig:
    """A search of noise in the form of CIFAR-100, or of Stanford Dogs for ImageNet's networks."""
    size = noise.Size(
        num_nodes=num_nodes or scale.num_nodes,
        batch_size=scale.batch_size,
        image_size=pixels_of(scale, network),
        num_steps=scale.num_steps,
    )
    config = noise.config_of(network, size)
    return dataclasses.replace(
        config,
        objective=objective or config.objective,
        training=training or config.training,
        device=device or DeviceConfig(device="cpu" if scale.cpu else "cuda"),
    )


def short_training(scale: Scale) -> TrainingConfig:
    """Three epochs, of which the second has another learning rate. Rates are the same numbers in float32."""
    return TrainingConfig(
        epochs=3, batch_size=scale.batch_size, eval_batch_size=scale.batch_size,
        learning_rate=1 / 64, milestones=(2,), gamma=0.25,
    )  # fmt: skip


class ReadyBatches:
    """The batches of another source, made already: what a step costs without making them."""

    def __init__(self, train: TrainBatches) -> None:
        self._batch = next(train.epoch(0, 1))
        self.steps_per_epoch = train.steps_per_epoch
        self.image_size = train.image_size
        self.placement = train.placement

    def specs(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The same one in every step."""
        for _ in range(first_step, self.steps_per_epoch):
            yield self._batch.images, self._batch.labels

    def make(self, spec: tuple[Tensor, Tensor]) -> Batch:
        """It is there."""
        return Batch(images=spec[0], labels=spec[1])


def training_of(
    config: SearchConfig,
    graph: GraphSpec,
    train: TrainSource,
    evaluation: EvalSource,
    *,
    seed: int = 0,
    num_classes: int = NUM_CLASSES,
    programs: Programs | None = None,
) -> TrainingLoop:
    """A training under a config."""
    return TrainingLoop(
        GraphMethod(graph=graph),
        setting_of(config, train, evaluation, num_classes=num_classes, programs=programs),
        seed,
    )


def setting_of(
    config: SearchConfig,
    train: TrainSource,
    evaluation: EvalSource,
    *,
    num_classes: int = NUM_CLASSES,
    programs: Programs | None = None,
) -> TrainingSetting:
    """What trainings under a config are given."""
    return TrainingSetting(
        network=config.network,
        objective=config.objective,
        training=config.training,
        runtime=dataclasses.replace(resolve_runtime(config.device), given_programs=programs),
        train=train,
        evaluation=evaluation,
        num_classes=num_classes,
    )


def advance(training: TrainingLoop, num_steps: int) -> list[float]:
    """So many steps, and what epochs that end among them report: losses, then accuracies."""
    found: list[float] = []
    for report in training.steps():
        if report is None:
            num_steps -= 1
            if num_steps == 0:
                break
        else:
            found += [*report.train_losses, *(report.node_accuracies or ()), report.ensemble_accuracy or 0.0]
    return found


def tensors_of(training: TrainingLoop) -> dict[str, Tensor]:
    """All that moves, on the CPU, with names for people."""
    found: dict[str, Tensor] = {}
    for index, node in enumerate(training.state().nodes, start=1):
        found |= {f"{name} of node {index}": tensor for name, tensor in node.tensors.items()}
        found |= {f"momentum of {name} of node {index}": tensor for name, tensor in node.momentum.items()}
    return found


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def compute_in(precision: Precision) -> None:
    """Let this process compute in a precision, also where no learner sees to it."""
    resolve_runtime(DeviceConfig(precision=precision)).enforce()


@contextmanager
def deterministic_cudnn() -> Iterator[None]:
    """cuDNN takes algorithms that add in one order."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def with_device(config: SearchConfig, **changes: object) -> SearchConfig:
    """The config with other options of the device."""
    return dataclasses.replace(config, device=dataclasses.replace(config.device, **changes))  # type: ignore[arg-type]


def write_weights(training: TrainingLoop, path: Path) -> dict[str, Tensor]:
    """The weights of its first network, as a file that ``objective.pretrained`` may name."""
    from safetensors.torch import save_file

    weights = {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in training.networks[0].state_dict().items()
    }
    save_file(weights, path)
    return weights
