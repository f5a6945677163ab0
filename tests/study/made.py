"""Studies for tests, and a trial's made-up accuracies."""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import text

from kdhpc.graph.space import SearchSpace
from kdhpc.study.definition import StoredSplit, StudyDefinition
from kdhpc.study.leased_trial import LeasedTrial, Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy

if TYPE_CHECKING:
    import optuna

EPOCHS = (1, 2, 4)
SPLIT = StoredSplit(train=np.arange(0, 20), validation=np.arange(20, 40))


def definition(name: str = "tiny", **changes: object) -> StudyDefinition:
    fields = {
        "name": name,
        "space": SearchSpace(num_nodes=2),
        "seed": 0,
        "pruner": "median",
        "sampler": "random",
        "max_attempts": 3,
        "last_epoch": EPOCHS[-1],
        "network": "resnet20",
        "dataset": "fashion_mnist",
        "dataset_checksum": "0123abcd",
        "settings": json.dumps({"training": {"epochs": EPOCHS[-1], "batch_size": 16}}),
    }
    return StudyDefinition(**{**fields, **changes})


def accuracy(slot: int, epoch: int) -> float:
    """The same in every process: noise that shrinks over a quality."""
    digest = hashlib.sha256(f"{slot}".encode()).digest()
    quality, noise = digest[0] / 255, digest[epoch] / 255
    return round(20 + 60 * quality + 20 * (noise - 0.5) / epoch, 3)


HERE = Owner.current(job="17_3")


def make(storage: Storage, *, target: int = 4, **changes: object) -> SharedStudy:
    return SharedStudy.create_or_open(storage, definition(**changes), SPLIT, target=target)


def take(study: SharedStudy, owner: Owner = HERE, lease_s: float = 60.0) -> LeasedTrial:
    trial = study.lease(owner, lease_s=lease_s, renew_s=lease_s / 3)
    assert trial is not None
    return trial


def optuna_trials(url: str, name: str = "tiny") -> "list[optuna.trial.FrozenTrial]":
    import optuna  # Workers do without it.

    return optuna.load_study(study_name=name, storage=url).trials


def states(url: str) -> list[str]:
    return [trial.state.name for trial in optuna_trials(url)]


def scalar(storage: Storage, query: str) -> object:
    return storage.read(lambda connection: connection.execute(text(query)).scalar_one())
