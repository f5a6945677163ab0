"""``tools/bench search``: trials per hour, all included, and what a trial costs besides its training.

Both sides train the same graphs, one trial after the other in this process, on the same images and the same PostgreSQL,
for one epoch. The other side is the method as one would publish it: plain Optuna, networks built anew for each trial,
images augmented one by one, a loss an edge and a sample, a host that waits for every loss.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import optuna
import torch
from torchvision.transforms import v2

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import packed_dir, server_dir
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import Batch
from kdhpc.data.packed import PackedDataset
from kdhpc.networks.build import build_network
from kdhpc.searching.plan import plan_study
from kdhpc.searching.trial import TrialSetting, prepare_training, run_trial
from kdhpc.searching.worker import trial_setting
from kdhpc.server import control as server
from kdhpc.server.address import find_address
from kdhpc.server.control import ServerOptions
from kdhpc.study.owner import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.training.loop import TrainingLoop
from tools.benchmarks.peers_published import PerSampleLosses, PublishedLoop
from tools.benchmarks.report import Cell, Report

_CIFAR_STEPS = 40_000 // 16
"""Steps in the shortest life of a trial: one epoch of the CIFAR studies, 40,000 training images, batch 16."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is searched."""
    parser.add_argument("--trials", type=int, default=20, help="random graphs a side (default: 20)")
    parser.add_argument("--nodes", type=int, default=2, help="networks of a graph (default: 2)")
    parser.add_argument("--dataset", default="fashion_mnist", help="a packed data set (default: fashion_mnist)")
    parser.add_argument("--network", default="resnet20", help="default: resnet20")
    parser.add_argument("--subset", type=int, default=480, help="images, half of them to train on (default: 480)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32", help="of both sides")
    parser.add_argument("--mode", default="auto", help="device.mode of our side (default: auto)")


def run(arguments: argparse.Namespace) -> Report:
    """Search with both sides."""
    overrides = [
        "study=quickstart", f"study.num_nodes={arguments.nodes}", f"study.trials={arguments.trials}",
        f"dataset={arguments.dataset}", f"dataset.subset={arguments.subset}", "dataset.validation_fraction=0.5",
        f"network={arguments.network}", "training.epochs=1", "training.milestones=[]", "training.batch_size=16",
        f"device.mode={arguments.mode}", f"device.precision={arguments.precision}", "study.pruner=none",
        "study.baselines=[]",
    ]  # fmt: skip
    config = compose_search(overrides)
    with _server() as storage:
        study = plan_study("ours", config).open(storage)
        setting = trial_setting(study, config)
        ours = _search(study, setting)
        peer_s = _published_search(study, setting, config)
    return _report(ours, peer_s, config, steps=setting.train.steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """Where one trial's time went, in seconds."""

    lease: float
    build: float
    first_step: float
    rest: float
    """Further steps, scoring, report and end."""
    step: float
    """One of the further steps, the median."""

    @property
    def besides(self) -> float:
        """What is not training: all of the first step beyond what a step takes, too."""
        return self.lease + self.build + self.first_step - self.step


@contextmanager
def _server() -> Iterator[Storage]:
    """A server of our own in a temporary folder."""
    before = os.environ.get("KDHPC_RUNS")
    with tempfile.TemporaryDirectory(prefix="kdhpc-bench-") as folder:
        os.environ["KDHPC_RUNS"] = folder
        server.start(server_dir(), ServerOptions(workers=4))
        try:
            yield Storage.connect()
        finally:
            server.stop(server_dir(), write_dump=False)
            if before is None:
                del os.environ["KDHPC_RUNS"]
            else:
                os.environ["KDHPC_RUNS"] = before


def _search(study: SharedStudy, setting: TrialSetting) -> list[_Trial]:
    trials: list[_Trial] = []
    training: TrainingLoop | None = None
    while True:
        begin = time.perf_counter()
        trial = study.lease(Owner.current(), lease_s=300, renew_s=30)
        if trial is None:
            return trials
        leased = time.perf_counter()
        training = prepare_training(trial, setting, training)
        built = time.perf_counter()
        times = [built]
        for _ in run_trial(trial, setting, training, lambda: False):
            _wait_for_device(setting)
            times.append(time.perf_counter())
        end = time.perf_counter()
        steps = [after - before for before, after in pairwise(times[1:])]
        trials.append(
            _Trial(
                lease=leased - begin,
                build=built - leased,
                first_step=times[1] - built,
                rest=end - times[1],
                step=statistics.median(steps),
            )
        )


def _wait_for_device(setting: TrialSetting) -> None:
    if setting.runtime.device.type == "cuda":
        torch.cuda.synchronize()


class _AugmentedImages(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """The training images of the search split, augmented one by one."""

    def __init__(self, setting: TrialSetting, study: SharedStudy) -> None:
        config = setting.config.dataset
        packed = PackedDataset.open(packed_dir(config.name))
        chosen = study.split.train
        self._images = torch.from_numpy(packed.train.images[chosen]).permute(0, 3, 1, 2)
        self._labels = packed.train.labels[chosen].tolist()
        crop, flip = v2.RandomCrop(config.image_size, padding=config.pad), v2.RandomHorizontalFlip()
        self._augment = v2.Compose([crop, flip, v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image: torch.Tensor = self._augment(self._images[index])
        return image.expand(3, -1, -1), self._labels[index]


def _published_search(study: SharedStudy, setting: TrialSetting, config: SearchConfig) -> float:
    """Seconds that plain Optuna and a published-style loop take for the same graphs."""
    device = setting.runtime.device
    begin = time.perf_counter()
    sampler = optuna.samplers.RandomSampler(seed=0)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = find_address(None)().render_as_string(hide_password=False)
    plain = optuna.create_study(
        study_name="published", storage=url, sampler=sampler, pruner=pruner, direction="maximize"
    )
    loader = torch.utils.data.DataLoader(
        _AugmentedImages(setting, study), batch_size=config.training.batch_size, shuffle=True, drop_last=True
    )

    def objective(trial: optuna.Trial) -> float:
        space = study.definition.space
        for parameter in space.parameters():
            trial.suggest_categorical(parameter.name, parameter.choices)
        graph = space.graph(study.definition.seed, trial.number)  # Whatever was suggested: that of the other side.
        size = config.dataset.image_size
        networks = [
            build_network(config.network, num_classes=setting.num_classes, image_size=size).to(device)
            for _ in range(graph.num_nodes)
        ]
        losses = PerSampleLosses(config.network.crops or ())
        autocast = setting.runtime.autocast_dtype
        loop = PublishedLoop(networks, graph, config.training, losses, autocast=autocast)
        for step, (images, labels) in enumerate(loader, start=1):
            loop.step(
                Batch(images=images.to(device), labels=labels.to(device)),
                step / len(loader),
                config.training.learning_rate,
            )
        accuracy = _score(loop, setting)
        trial.report(accuracy, 1)
        trial.should_prune()
        return accuracy

    plain.optimize(objective, n_trials=config.study.trials)
    return time.perf_counter() - begin


@torch.no_grad()
def _score(loop: PublishedLoop, setting: TrialSetting) -> float:
    right = count = 0
    for network in loop.networks:
        network.eval()
    for batch in setting.evaluation:
        logits = torch.stack([answer.logits for answer in loop.answers(batch.images)]).mean(dim=0)
        right += int((logits.argmax(dim=1) == batch.labels).sum().item())
        count += len(batch.labels)
    return 100 * right / count


def _report(trials: list[_Trial], peer_s: float, config: SearchConfig, *, steps: int) -> Report:
    ours_s = sum(trial.lease + trial.build + trial.first_step + trial.rest for trial in trials)
    epoch_s = _CIFAR_STEPS * statistics.median(trial.step for trial in trials)
    rows: list[dict[str, Cell]] = []
    for part in ("lease", "build", "first_step", "step", "besides"):
        later_s = statistics.median(getattr(trial, part) for trial in trials[1:])
        rows.append(
            {
                "part": part,
                "first trial, ms": 1e3 * getattr(trials[0], part),
                "later trials, ms": 1e3 * later_s,
                "share of a CIFAR epoch, %": 100 * later_s / epoch_s,
            }
        )
    ratio = peer_s / ours_s
    return Report(
        title="A search: trials per hour, and what a trial costs besides its training",
        settings={
            "network": config.network.name,
            "nodes": config.study.num_nodes,
            "trials": len(trials),
            "steps a trial": steps,
            "batch": config.training.batch_size,
            "mode": config.device.mode,
            "precision": config.device.precision,
            "threads": torch.get_num_threads(),
        },
        rows=rows,
        notes=(
            f"Trials per hour of one epoch of {steps} steps, all included: ours {3600 * len(trials) / ours_s:.0f}, "
            f"published style {3600 * len(trials) / peer_s:.0f}; ratio {ratio:.2f}.",
            f"A CIFAR epoch, the shortest life of a trial there, is {_CIFAR_STEPS} steps. `besides` is lease, build, "
            "and what a first step takes longer than others. Medians of all trials after the first.",
        ),
    )
