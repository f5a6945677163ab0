"""Final training: a graph is trained from scratch on all training images, and scored on the test images."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import nn

from kdhpc.config.document import write_config
from kdhpc.config.schema import TrainConfig
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import CheckpointError, ConfigError, StorageError
from kdhpc.files.writing import write_whole
from kdhpc.final.assembly import assemble, num_training_images
from kdhpc.final.done import read_done
from kdhpc.final.model import ModelCard, write_model_card
from kdhpc.final.owner import RunOwner, owned
from kdhpc.final.result import FinalResult, SearchedWith, write_result
from kdhpc.final.run import Run, open_run
from kdhpc.final.scores import Scores
from kdhpc.final.scoring import score
from kdhpc.final.settings import digest, read_settings, write_settings
from kdhpc.final.tracked import tracked_run
from kdhpc.methods.method import Method
from kdhpc.networks.build import exported_weights
from kdhpc.networks.weights import content_digest
from kdhpc.tracking.epochs import EpochLog, earlier_points
from kdhpc.tracking.recorder import Recorder, RunRecord
from kdhpc.training.checkpoint import read_header, remove_checkpoint, remove_leftovers
from kdhpc.training.checkpointing import Checkpointing
from kdhpc.training.device_errors import device_errors_in_words
from kdhpc.training.loop import EpochReport, TrainingLoop
from kdhpc.training.made_with import device_name, made_with
from kdhpc.training.metrics import MetricsLog, read_metrics

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a training stands before its next step."""

    step: int
    """Optimiser steps done, also by earlier processes."""
    steps_per_epoch: int
    """Steps of an epoch."""
    epochs: int
    """Epochs of the whole training."""


def _ignore(position: Position) -> None:
    pass


@device_errors_in_words()
def train_final(
    config: TrainConfig,
    *,
    show: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
    begun: Callable[[Position], None] = _ignore,
    method: Method | None = None,
    packed: PackedDataset | None = None,
) -> FinalResult | None:
    """Begin a final training, or go on with it.

    At the end the weights are written, then the result, which has their digests; then the checkpoint is removed. Both
    are read back from the disk before that. A run that is done is not trained again.

    Args:
        config: What to train.
        show: Called with a report after each epoch.
        should_stop: Called after each step. If it returns True, a checkpoint is written and the training stops.
        begun: Called once, before the first step that this process trains.
        method: As for :func:`kdhpc.final.run.open_run`.
        packed: As there.

    Returns:
        The result, also of a training that diverged; None if it was stopped.

    Raises:
        KdhpcError: as :func:`kdhpc.final.run.open_run`.
        ConfigError: another process is training it, or its folder holds another training's result.
        CheckpointError: the disk refuses the last checkpoint of a run that is stopped.
        DataError: it is done, and its result or its weights are damaged since.
        DeviceError: the GPU's memory is used up, or this process has lost the GPU; the same command goes on from the
            last checkpoint.
        RunTakenError: another process has begun it meanwhile, on a file system where their locks do not meet.
        StorageError: the disk refuses; the same command goes on.
    """
    run = open_run(config, method=method, packed=packed)
    config = run.config
    if (done := _read_done(run)) is not None:
        _LOG.info("%s is done already", run.paths.root)
        return done
    run.warn()
    training = assemble(config, run.method, run.packed, run.here)
    versions = made_with(run.here.device)
    recorder = Recorder(config.tracking)

    def begin_record() -> RunRecord:
        made = {"device": device_name(run.here.device), **versions}
        return recorder.begin(
            lambda: tracked_run(run, made), lambda: earlier_points(run.paths.metrics, config.training)
        )

    result = None
    try:
        with owned(run.paths) as owner:
            # Another process may have come to the end since.
            if (done := _read_done(run)) is not None:
                return done
            _begin(run)
            ended = _train(training, run, owner, begin_record, show, should_stop, begun)
            result = None if ended is None else _finish(run, owner, ended, training, versions)
    finally:
        recorder.close(hurry=result is None)
    return result


def _read_done(run: Run) -> FinalResult | None:
    """As :func:`kdhpc.final.done.read_done`; nothing but what is done stays in its folder."""
    done = read_done(run.paths, name=run.name, seed=run.config.run.seed)
    if done is not None and run.paths.checkpoint.exists():  # The disk has refused to remove it.
        remove_checkpoint(run.paths.checkpoint)
    return done


def _begin(run: Run) -> None:
    if run.paths.settings.exists() and read_settings(run.paths.settings) is None:
        begun = read_header(run.paths.checkpoint)
        if begun is not None and begun.key_digest != run.identity.digest:
            raise ConfigError(
                f"{run.paths.settings} cannot be understood, and the checkpoint beside it is of other settings: move "
                f"{run.paths.root} away, or give this training a name with run.name=NAME"
            )
        _LOG.warning("%s cannot be understood: it is written anew", run.paths.settings)
    write_config(run.config, run.paths.config)
    write_settings(run.settings, run.paths.settings)
    write_model_card(ModelCard.of(run.packed.manifest), run.paths.model)
    run.method.write_files(run.paths)


def _train(
    training: TrainingLoop,
    run: Run,
    owner: RunOwner,
    begin_record: Callable[[], RunRecord],
    show: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
    begun: Callable[[Position], None],
) -> "_Ended | None":
    """Train to the end, from the checkpoint if there is one; None: it was stopped."""
    checkpointing = Checkpointing(
        run.paths.checkpoint,
        training,
        run.identity,
        every_s=run.config.run.checkpoint_every_s,
        name=f"{run.name}, seed {run.config.run.seed}",
        may_write=owner.is_own,
    )
    with checkpointing as checkpoint:
        checkpoint.restore()
        metrics = MetricsLog(run.paths.metrics, epoch=training.epoch)
        begun(Position(step=training.step, steps_per_epoch=training.steps_per_epoch, epochs=run.config.training.epochs))
        with begin_record() as record:
            log = EpochLog(metrics, record, run.config.training)
            for report in training.steps():
                if report is not None:
                    log.append(report)
                    show(report)
                    owner.check()
                    if training.finished or report.diverged is not None:
                        record.end("complete" if report.diverged is None else "diverged", report.diverged or "")
                        return _Ended(report=report, is_kept=_keep_end(training, checkpoint))
                    continue
                checkpoint.save_if_due()
                if should_stop():
                    break
        if not checkpoint.save_now():
            owner.check()
    return None


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """A training that has reached its end, or has diverged."""

    report: EpochReport
    """Report of its last epoch."""
    is_kept: bool
    """Whether there is a checkpoint of the end, so that nothing has to be trained again if a file cannot be written."""


def _keep_end(training: TrainingLoop, checkpoint: Checkpointing) -> bool:
    """Write a last checkpoint, from which only the scoring of the last epoch is repeated; False: the disk refuses."""
    training.reopen_epoch()
    try:
        return checkpoint.save_now()
    except (CheckpointError, StorageError):
        return False


def _finish(run: Run, owner: RunOwner, ended: _Ended, training: TrainingLoop, versions: dict[str, str]) -> FinalResult:
    """Score, write the weights, then the result, then remove the checkpoint."""
    has_diverged, networks = ended.report.diverged is not None, training.kept_networks
    scores = None if has_diverged else score(training.predictions())
    if scores is None and not has_diverged:
        _LOG.warning("%s, seed %d has no scores: some logits are not finite", run.name, run.config.run.seed)
    try:
        owner.check()
        weights = () if has_diverged else tuple(_write_weights(run, networks))
        result = _result(run, ended.report, networks, weights, versions, scores)
        owner.check()
        write_result(result, run.paths.result)
    except StorageError as exc:
        rest = (
            "writes what is missing"
            if ended.is_kept
            else f"trains on from its last checkpoint {run.paths.checkpoint}"
            if run.paths.checkpoint.exists()
            else "trains it again, as no checkpoint could be written"
        )
        raise StorageError(f"{exc}: make room, and the same command {rest}") from exc
    for index in range(len(weights)):
        remove_leftovers(run.paths.weights(index))
    remove_checkpoint(run.paths.checkpoint)
    return result


def _write_weights(run: Run, networks: Sequence[nn.Module]) -> Iterator[str]:
    """Write the weights as safetensors, a format that executes nothing when it is loaded. Yields each file's digest."""
    for index, network in enumerate(networks):
        content = save({name: tensor.contiguous() for name, tensor in exported_weights(network).items()})
        write_whole(run.paths.weights(index), content)
        yield content_digest([content])


def _result(
    run: Run,
    report: EpochReport,
    networks: Sequence[nn.Module],
    weights: tuple[str, ...],
    versions: dict[str, str],
    scores: Scores | None,
) -> FinalResult:
    config, method, teacher, runtime = run.config, run.method, run.method.teacher, run.here
    return FinalResult(
        name=run.name,
        dataset=config.dataset.name,
        network=config.network.name,
        networks=config.network.nodes,
        graph=config.run.graph,
        graph_key=method.key,
        num_nodes=method.num_nodes,
        seed=config.run.seed,
        epochs=config.training.epochs,
        training_images=num_training_images(config, run.packed),
        scored_on="test" if config.run.split == "official" else "validation",
        settings=digest(run.settings),
        node_accuracies=report.node_accuracies,
        ensemble_accuracy=report.ensemble_accuracy,
        num_parameters=sum(p.numel() for network in networks for p in network.parameters()),
        seconds=_seconds(run, report.epoch),
        device=device_name(runtime.device),
        threads=torch.get_num_threads(),
        precision=runtime.precision,
        searched=SearchedWith.of(method.provenance),
        teacher="" if teacher is None else teacher.label,
        teacher_accuracy=None if teacher is None else teacher.ensemble_accuracy,
        versions=versions,
        weights=weights,
        diverged_epoch=None if report.diverged is None else report.epoch,
        diverged=report.diverged or "",
        scores=scores,
    )


def _seconds(run: Run, num_epochs: int) -> float | None:
    epochs = read_metrics(run.paths.metrics)
    return sum(epoch.seconds for epoch in epochs) if len(epochs) == num_epochs else None
