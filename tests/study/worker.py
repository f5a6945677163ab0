"""A worker without any training: ``worker.py STUDY EPOCH_S LEASE_S``, started as a process of its own by tests.

Prints a line of JSON for each trial and each end, so that tests can follow it.
"""

import json
import sys
import time

from kdhpc.errors import LeaseLostError
from kdhpc.study.leased_trial import LeasedTrial, Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import EPOCHS, accuracy


def tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def run(trial: LeasedTrial, epoch_s: float) -> str:
    for epoch in EPOCHS:
        if epoch in trial.reported:
            continue
        time.sleep(epoch_s)
        if trial.report(epoch, accuracy(trial.slot, epoch)):
            trial.prune()
            return "pruned"
    trial.complete(accuracy(trial.slot, EPOCHS[-1]))
    return "complete"


def main(name: str, epoch_s: float, lease_s: float) -> None:
    study = SharedStudy.open(Storage.connect(first_contact_s=30), name)
    owner = Owner.current()
    while study.progress().unfinished or study.num_waiting():
        trial = study.lease(owner, lease_s=lease_s, renew_s=lease_s / 5)
        if trial is None:
            time.sleep(0.1)
            continue
        tell(number=trial.number, slot=trial.slot, attempt=trial.attempt, reported=trial.reported, pid=owner.pid)
        try:
            tell(number=trial.number, outcome=run(trial, epoch_s))
        except LeaseLostError:
            tell(number=trial.number, outcome="lost")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
