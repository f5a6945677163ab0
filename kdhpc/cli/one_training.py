"""One final training as a command shows it: here, or in a job of a sweep."""

import signal
import sys
from typing import TYPE_CHECKING

from kdhpc.cli.training_progress import TrainingProgress
from kdhpc.garbage import collect_as_usual

if TYPE_CHECKING:
    from kdhpc.config.schema import TrainConfig
    from kdhpc.training.loop import EpochReport


def train_one(config: "TrainConfig", progress: TrainingProgress | None = None) -> bool:
    """Train one config, with progress on stderr, and on stdout the accuracies, or that it diverged.

    Args:
        config: What to train.
        progress: Entered, and told of the training that begins; None: one of its own.

    Returns:
        False: it was stopped. If a job of a sweep stopped because its time limit is near, it is in Slurm's queue again.

    Raises:
        DivergedError: it diverged, now or earlier.
        KdhpcError: as :func:`kdhpc.final.final.train_final`.
    """
    from kdhpc.cluster import slurm
    from kdhpc.cluster.requeue import requeue_if_out_of_time
    from kdhpc.cluster.signals import StopSignals
    from kdhpc.log import log_to_stderr

    if progress is None:
        with TrainingProgress() as own:
            own.next_training(config.run.seed)
            return train_one(config, own)
    log_to_stderr()

    def show(report: "EpochReport") -> None:
        try:
            progress.report(report)
        except OSError:  # Nobody reads it any more: what is trained is checkpointed first.
            stop.stop(signal.SIGPIPE)

    def should_stop() -> bool:
        progress.stepped()
        return stop.requested

    # Before the imports, which take seconds.
    with StopSignals(ends_at_second=True) as stop:
        from kdhpc.final.final import train_final
        from kdhpc.final.result import refuse_diverged, result_line

        collect_as_usual()
        result = train_final(config, show=show, should_stop=should_stop, begun=progress.begun)
        if result is None:
            requeue_if_out_of_time(stop, is_ours=slurm.is_submitted())
    progress.hide()
    if result is None:
        print("kdhpc: stopped; the same command goes on", file=sys.stderr)
        return False
    print(result_line(result), flush=True)
    refuse_diverged(result)
    return True
