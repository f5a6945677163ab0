"""One final training as a command shows it: here, or in a job of a sweep."""

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdhpc.config.schema import TrainConfig
    from kdhpc.training.loop import EpochReport


def train_one(config: "TrainConfig") -> bool:
    """Train one config, with progress on stderr, and on stdout the accuracies, or that it diverged.

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

    log_to_stderr()

    def show(report: "EpochReport") -> None:
        try:
            print(progress_line(report, config.training.epochs), file=sys.stderr, flush=True)
        except OSError:  # Nobody reads it any more: what is trained is checkpointed first.
            stop.stop(signal.SIGPIPE)

    # Before the imports, which take seconds.
    with StopSignals(ends_at_second=True) as stop:
        from kdhpc.final.final import train_final
        from kdhpc.final.result import refuse_diverged, result_line

        result = train_final(config, show=show, should_stop=lambda: stop.requested)
        if result is None:
            requeue_if_out_of_time(stop, is_ours=slurm.is_submitted())
    if result is None:
        print("kdhpc: stopped; the same command goes on", file=sys.stderr)
        return False
    print(result_line(result), flush=True)
    refuse_diverged(result)
    return True


def progress_line(report: "EpochReport", epochs: int) -> str:
    """One epoch in a line."""
    losses = " ".join(f"{loss:.3f}" for loss in report.train_losses)
    line = f"epoch {report.epoch}/{epochs}: loss {losses}"
    if report.ensemble_accuracy is not None and report.node_accuracies is not None:
        nodes = " ".join(f"{accuracy:.2f}" for accuracy in report.node_accuracies)
        line += f", ensemble {report.ensemble_accuracy:.2f} %, nodes {nodes} %"
    return f"{line} ({report.seconds:.1f} s)"
