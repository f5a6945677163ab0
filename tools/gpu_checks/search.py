"""A whole search: a PostgreSQL of its own, images that are made up, a worker, and the export of the best graphs."""

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kdhpc.config.schema import (
    ClusterConfig,
    DatasetConfig,
    DeviceConfig,
    NetworkConfig,
    ObjectiveConfig,
    SearchConfig,
    StudyConfig,
    TrainingConfig,
    WorkerConfig,
)
from kdhpc.networks.names import architecture
from tools.benchmarks.step import crops_of
from tools.gpu_checks.check import NOTE, CannotRunError, Check, DiffersError, Numbers, Scale
from tools.gpu_checks.images import MadeUpReader, pack
from tools.gpu_checks.setting import pixels_of

_EPOCHS = 2
_FEWER_LARGE = 4
"""One large image for so many small ones: they take long to make up."""
_SPARE_S = 15.0
"""To end a search in order, before its time is over."""
_LEAST_S = 10.0
"""Of a search."""
_TOP = 3


def checks(scale: Scale, deadline: float) -> Iterator[Check]:
    """One in the form of CIFAR-100, one in the form of Stanford Dogs, which is cut short where time ends."""
    networks = ("resnet20", "abn_resnet18") if not scale.cpu else ("resnet8",)
    for index, network in enumerate(networks):
        share = 1 / (len(networks) - index)
        yield Check(
            name=f"search of {scale.num_trials} trials, {network}",
            run=lambda network=network, share=share: search_check(  # type: ignore[misc]
                scale, network, _end_of(share, deadline)
            ),
            limit_s=3600,
        )


def _end_of(share: float, deadline: float) -> float:
    """When a search must stop that may have that share of the time that is left.

    Raises:
        CannotRunError: it would be too short for a trial.
    """
    now = time.monotonic()
    seconds = share * (deadline - _SPARE_S - now)
    if seconds < _LEAST_S:
        raise CannotRunError("too little time was left")
    return now + seconds


class Deadline:
    """Stands for the signals that ask a worker to stop.

    Args:
        deadline: On ``time.monotonic``.
    """

    out_of_time = terminated = False

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    @property
    def requested(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._deadline


def search_check(scale: Scale, network: str, deadline: float) -> Numbers:
    """From packed images to exported graphs."""
    # They need packages that the other parts can do without.
    from kdhpc.config.paths import StudyPaths, packed_dir, server_dir
    from kdhpc.graph.serial import read_stored
    from kdhpc.searching.export import export_trials
    from kdhpc.searching.plan import plan_study
    from kdhpc.searching.worker import run_worker
    from kdhpc.server import control as server
    from kdhpc.server.control import ServerOptions
    from kdhpc.study.status import read_status, top_trials
    from kdhpc.study.storage import Storage

    config = search_config(scale, network)
    small = config.dataset.augmentation == "pad_crop"
    reader = MadeUpReader(
        num_images=scale.search_images // (1 if small else _FEWER_LARGE),
        side=config.dataset.image_size if small else config.dataset.resize,
        num_classes=_num_classes(scale),
    )
    pack(packed_dir(config.dataset.name), reader, Path(__file__))
    begin = time.perf_counter()
    server.start(server_dir(), ServerOptions(workers=4))
    try:
        storage = Storage.connect()
        name = f"check_{network}"
        study = plan_study(name, config).open(storage)
        started_s = time.perf_counter() - begin
        with GpuUse() as use:
            begin = time.perf_counter()
            finished = run_worker(study, config, Deadline(deadline))  # type: ignore[arg-type]
            seconds = time.perf_counter() - begin
        counts = study.progress()
        trials = top_trials(storage, name, _TOP)
        if not trials and time.monotonic() >= deadline:
            raise CannotRunError(f"no trial was complete after the {seconds:.0f} s that were left")
        if not trials:
            raise DiffersError(f"no trial is complete: {counts}")
        status = read_status(storage, name)
        if status.crashes:
            raise DiffersError(f"{len(status.crashes)} trials crashed: {status.crashes[0]}")
        folder = StudyPaths.of(name).export
        export_trials(study.definition, trials, folder, study_uid=study.uid, draw=False)
        best = read_stored(folder / f"{name}-best.json")
        if best.graph != trials[0].graph or best.provenance.get("value") != trials[0].value:
            raise DiffersError("the exported graph is not that of the best trial")
    finally:
        with contextlib.suppress(OSError):
            server.stop(server_dir(), write_dump=False)
    steps = sum(_steps(path) for path in StudyPaths.of(name).root.glob("trials/*/metrics.jsonl"))
    return {
        "trials": finished,
        "trials an hour": 3600 * finished / seconds,
        "steps a second": steps / seconds,
        "GPU use, %": use.percent,
        "best accuracy, %": trials[0].value,
        "chance, %": 100 / _num_classes(scale),
        "database and study, s": started_s,
        "search, s": seconds,
        NOTE: "" if finished == counts.target else f"stopped after {finished} of {counts.target} trials: time was over",
    }


def _num_classes(scale: Scale) -> int:
    return 4 if scale.cpu else 100


def search_config(scale: Scale, network: str) -> SearchConfig:
    """Sizes of the paper's data sets and networks, but few images and epochs."""
    pixels = pixels_of(scale, network)
    small = architecture(network).family == "cifar"
    return SearchConfig(
        dataset=DatasetConfig(
            name="made_up" if small else "made_up_large",
            image_size=pixels,
            augmentation="pad_crop" if small else "resized_crop",
            validation_fraction=0.5,
            resize=pixels * 8 // 7,
        ),
        network=NetworkConfig(name=network, crops=crops_of(network, pixels)),
        objective=ObjectiveConfig(),
        training=TrainingConfig(
            epochs=_EPOCHS, batch_size=16, eval_batch_size=16 if scale.cpu else 256, learning_rate=0.05, milestones=(2,)
        ),
        device=DeviceConfig(device="cpu", threads=1) if scale.cpu else DeviceConfig(device="cuda"),
        study=StudyConfig(num_nodes=scale.num_nodes, trials=scale.num_trials, baselines=()),
        worker=WorkerConfig(),
        cluster=ClusterConfig(),
    )


def _steps(metrics: Path) -> int:
    lines = metrics.read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["step"]) if lines else 0


class GpuUse:
    """How busy the GPU is meanwhile, as nvidia-smi says; none where it is not there."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "GpuUse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def percent(self) -> float | None:
        """The mean."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def _watch(self) -> None:
        program = shutil.which("nvidia-smi")
        if program is None:
            return
        command = [program, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not self._done.wait(0.5):
            shown = subprocess.run(command, capture_output=True, text=True, check=False)
            with contextlib.suppress(ValueError):
                self._samples.append(float(shown.stdout.strip()))
