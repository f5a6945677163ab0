"""One worker process of ``tools/bench study``: trials without training, and what they cost.

``study_worker.py SIDE STUDY TRIALS`` says ``ready`` on stdout, begins at a line on stdin, and ends with a line of JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tools.benchmarks.study_epochs import EPOCHS, SPACE, accuracy

if TYPE_CHECKING:
    from kdhpc.study.leased_trial import LeasedTrial

T = TypeVar("T")


class Meter:
    """Times and statements of each kind of call."""

    def __init__(self) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        self.times_ms: dict[str, list[float]] = {}
        self.statements: dict[str, list[int]] = {}
        self._count = 0
        event.listen(Engine, "before_cursor_execute", self._executed)

    def _executed(self, *arguments: object) -> None:
        self._count += 1

    def call(self, kind: str, work: Callable[[], T]) -> T:
        """Do it, and write down what it took."""
        before, begin = self._count, time.perf_counter()
        result = work()
        self.add(kind, time.perf_counter() - begin, self._count - before)
        return result

    def add(self, kind: str, seconds: float, statements: int) -> None:
        """What one call took."""
        self.times_ms.setdefault(kind, []).append(1e3 * seconds)
        self.statements.setdefault(kind, []).append(statements)

    @property
    def count(self) -> int:
        """Statements so far."""
        return self._count


def ours(study_name: str, trials: int, meter: Meter, begin: Callable[[], None]) -> int:
    """Slot after slot of a shared study."""
    from kdhpc.study.owner import Owner
    from kdhpc.study.storage import Storage
    from kdhpc.study.study import SharedStudy

    study = SharedStudy.open(Storage.connect(), study_name)
    owner = Owner.current()
    begin()
    done = 0
    while True:
        trial = meter.call("register", lambda: study.lease(owner, lease_s=300, renew_s=30))
        if trial is None:
            return done
        trial.describe(mode="eager", data="mapped")
        report = partial(_report, trial)
        pruned = any(meter.call("report", partial(report, epoch)) for epoch in EPOCHS)
        meter.call("tell", trial.prune if pruned else partial(trial.complete, accuracy(trial.slot, EPOCHS[-1])))
        done += 1


def _report(trial: "LeasedTrial", epoch: int) -> bool:
    return trial.report(epoch, accuracy(trial.slot, epoch))


def plain(study_name: str, trials: int, meter: Meter, begin: Callable[[], None]) -> int:
    """``study.optimize`` with as many trials as the budget allows."""
    import optuna

    from tools.benchmarks.study_server import plain_url

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(
        study_name=study_name,
        storage=plain_url(),
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0),
    )
    parameters = [(parameter.name, parameter.choices) for parameter in SPACE.parameters()]
    last = [time.perf_counter(), 0.0]

    def objective(trial: optuna.Trial) -> float:
        for name, choices in parameters:
            trial.suggest_categorical(name, choices)
        now = time.perf_counter()
        meter.add("register", now - last[0], meter.count - int(last[1]))

        def report(epoch: int) -> bool:
            trial.report(accuracy(trial.number, epoch), epoch)
            return trial.should_prune()

        try:
            for epoch in EPOCHS:
                if meter.call("report", partial(report, epoch)):
                    raise optuna.TrialPruned
        finally:
            last[:] = [time.perf_counter(), meter.count]
        return accuracy(trial.number, EPOCHS[-1])

    def told(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        meter.add("tell", time.perf_counter() - last[0], meter.count - int(last[1]))
        budget(study, trial)
        last[:] = [time.perf_counter(), meter.count]

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    budget = optuna.study.MaxTrialsCallback(trials, states=ended)
    begin()
    last[:] = [time.perf_counter(), meter.count]
    study.optimize(objective, callbacks=[told])
    return len(meter.times_ms["tell"])


def main() -> None:
    """Work on one side's study."""
    side, study, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
    started = time.perf_counter()
    meter = Meter()
    marks: list[float] = []

    def begin() -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        marks[:] = [time.process_time(), time.perf_counter()]

    done = (ours if side == "ours" else plain)(study, trials, meter, begin)
    start_s = {"cpu": marks[0], "wall": marks[1] - started}
    cpu_s = time.process_time() - marks[0]
    document = {"trials": done, "cpu_s": cpu_s, "start_s": start_s}
    print(json.dumps(document | {"times_ms": meter.times_ms, "statements": meter.statements}), flush=True)


if __name__ == "__main__":
    main()
