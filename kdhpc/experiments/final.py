"""Final training: one graph, from scratch, on the original training images, scored on the original test images."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from kdhpc import __version__
from kdhpc.config.document import write_config
from kdhpc.config.schema import TrainConfig
from kdhpc.experiments.assembly import assemble, num_training_images
from kdhpc.experiments.lock import held
from kdhpc.experiments.result import FinalResult, SearchedWith, read_result, write_result
from kdhpc.experiments.run import Run, open_run
from kdhpc.experiments.settings import digest, write_settings
from kdhpc.experiments.subject import tell_about
from kdhpc.graph.serial import write_graph
from kdhpc.training.checkpoint import remove_checkpoint
from kdhpc.training.checkpointing import Checkpointing
from kdhpc.training.device import resolve_device, resolve_precision
from kdhpc.training.loop import EpochReport, TrainingLoop
from kdhpc.training.metrics import MetricsLog, read_metrics

_LOG = logging.getLogger(__name__)


def train_final(
    config: TrainConfig, *, show: Callable[[EpochReport], None], should_stop: Callable[[], bool]
) -> FinalResult | None:
    """Train, or go on with, one final training.

    Args:
        config: What to train; a run that is done with the same settings is not repeated.
        show: Called after each epoch.
        should_stop: Asked after each step; True checkpoints and returns.

    Returns:
        The result; none if it was stopped.

    Raises:
        KdhpcError: as :func:`kdhpc.experiments.run.open_run`.
        ConfigError: another process is training it.
        CheckpointError: the disk refuses the last checkpoint of a run that is stopped.
    """
    run = open_run(config)
    if run.paths.result.exists():
        _LOG.info("%s is done already", run.paths.root)
        return read_result(run.paths.result)
    tell_about(run.subject, config, run.packed.checksum)
    training = assemble(config, run.subject, run.packed)
    with held(run.paths.lock):
        _begin(run)
        report = _train(training, run, show, should_stop)
        return None if report is None else _finish(run, report, training.networks)


def _begin(run: Run) -> None:
    write_config(run.config, run.paths.config)
    write_settings(run.settings, run.paths.settings)
    if run.subject.graph is not None:
        write_graph(run.paths.graph, run.subject.graph, run.subject.provenance)


def _train(
    training: TrainingLoop, run: Run, show: Callable[[EpochReport], None], should_stop: Callable[[], bool]
) -> EpochReport | None:
    """To the end, from the checkpoint where there is one. The last epoch's report; none if it was stopped."""
    checkpointing = Checkpointing(
        run.paths.checkpoint,
        training,
        run.identity,
        every_s=run.config.run.checkpoint_every_s,
        name=f"{run.name}, seed {run.config.run.seed}",
    )
    with checkpointing as checkpoint:
        checkpoint.restore()
        metrics = MetricsLog(run.paths.metrics, epoch=training.epoch)
        for report in training.steps():
            if report is not None:
                metrics.append(report)
                show(report)
                if training.finished:
                    return report
                continue
            checkpoint.save_if_due()
            if should_stop():
                break
        checkpoint.save_now()
    return None


def _finish(run: Run, report: EpochReport, networks: Sequence[nn.Module]) -> FinalResult:
    for index, network in enumerate(networks):
        _save_weights(network, run.paths.weights(index))
    result = _result(run, report, networks)
    write_result(result, run.paths.result)
    remove_checkpoint(run.paths.checkpoint)
    return result


def _save_weights(network: nn.Module, path: Path) -> None:
    """As safetensors, which execute nothing when they are loaded."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, partial)
    partial.replace(path)


def _result(run: Run, report: EpochReport, networks: Sequence[nn.Module]) -> FinalResult:
    assert report.node_accuracies is not None
    assert report.ensemble_accuracy is not None
    config, teacher = run.config, run.subject.teacher
    device = resolve_device(config.device)
    return FinalResult(
        name=run.name,
        dataset=config.dataset.name,
        network=config.network.name,
        graph=config.run.graph,
        graph_key=run.subject.key,
        num_nodes=run.subject.num_nodes,
        seed=config.run.seed,
        epochs=config.training.epochs,
        training_images=num_training_images(config, run.packed),
        scored_on="test" if config.run.split == "official" else "validation",
        settings=digest(run.settings),
        node_accuracies=report.node_accuracies,
        ensemble_accuracy=report.ensemble_accuracy,
        num_parameters=sum(p.numel() for network in networks for p in network.parameters()),
        seconds=sum(epoch.seconds for epoch in read_metrics(run.paths.metrics)),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        precision=resolve_precision(config.device, device),
        searched=SearchedWith.of(run.subject.provenance),
        teacher="" if teacher is None else teacher.run.label,
        teacher_accuracy=None if teacher is None else teacher.run.result.ensemble_accuracy,
        versions={"kdhpc": __version__, "torch": torch.__version__},
    )
