"""One process of ``tools/bench fleet``: many workers that train nothing, a thread and a connection each.

``fleet_worker.py STUDY WORKERS SECONDS EPOCH_S RENEW_S START_S`` says ``ready`` on stdout when all are connected,
begins at a line on stdin, and ends with a line of JSON.
"""

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.owner import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tools.benchmarks.study_epochs import EPOCHS, accuracy

T = TypeVar("T")
_LEASE_S = 300.0
"""Of real time: no worker dies here, and a server under this load may be slower than a lease is short."""


class Fleet:
    """Workers that share what they measure.

    Args:
        study: Its name.
        epoch_s: How long an epoch takes them.
        renew_s: How often they renew their leases.
        start_s: Within which they begin, each at a time of its own.
    """

    def __init__(self, study: str, *, epoch_s: float, renew_s: float, start_s: float) -> None:
        self.times_ms: dict[str, list[float]] = {"lease": [], "report": [], "renew": [], "end": []}
        self.errors: list[str] = []
        self._study = study
        self._epoch_s = epoch_s
        self._renew_s = renew_s
        self._start_s = start_s
        self._stop = threading.Event()

    def connect(self) -> SharedStudy:
        """A worker's own connection; what its leases' threads do is measured, too."""
        storage = Storage.connect(first_contact_s=60)
        storage.write_now = partial(self._timed, "renew", storage.write_now)  # type: ignore[method-assign]
        return SharedStudy.open(storage, self._study)

    def run(self, studies: list[SharedStudy], seconds: float) -> None:
        """Let all of them work for so long; what they hold then, they give back."""
        threads = [threading.Thread(target=self._survive, args=(study,)) for study in studies]
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()

    def _survive(self, study: SharedStudy) -> None:
        try:
            self._work(study)
        except Exception as exc:  # To be counted, and told at the end.
            self.errors.append(f"{type(exc).__name__}: {exc}")

    def _work(self, study: SharedStudy) -> None:
        owner = Owner.current()
        self._stop.wait(random.uniform(0, self._start_s))
        while not self._stop.is_set():
            trial = self._timed("lease", study.lease, owner, lease_s=_LEASE_S, renew_s=self._renew_s)
            if trial is None:
                return
            self._train(trial)

    def _train(self, trial: LeasedTrial) -> None:
        epoch = 0
        for rung in EPOCHS:
            if self._stop.wait((rung - epoch) * self._epoch_s):
                trial.release()
                return
            epoch = rung
            if self._timed("report", trial.report, rung, accuracy(trial.slot, rung)):
                self._timed("end", trial.prune)
                return
        self._timed("end", trial.complete, accuracy(trial.slot, EPOCHS[-1]))

    def _timed(self, kind: str, work: Callable[..., T], *arguments: object, **named: object) -> T:
        begin = time.perf_counter()
        result = work(*arguments, **named)
        self.times_ms[kind].append(1e3 * (time.perf_counter() - begin))
        return result


def main() -> None:
    """Be a part of the fleet."""
    study, workers, seconds, epoch_s, renew_s, start_s = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:7])
    fleet = Fleet(study, epoch_s=epoch_s, renew_s=renew_s, start_s=start_s)
    studies = [fleet.connect() for _ in range(workers)]
    print("ready", flush=True)
    sys.stdin.readline()
    before = time.process_time()
    fleet.run(studies, seconds)
    cpu_s = time.process_time() - before
    print(json.dumps({"times_ms": fleet.times_ms, "errors": fleet.errors, "cpu_s": cpu_s}), flush=True)


if __name__ == "__main__":
    main()
