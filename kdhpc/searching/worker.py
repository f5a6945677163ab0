"""A worker: leases slots of a study and trains their graphs until nothing is left to train."""

import hashlib
import logging
import signal
import threading
import time
from dataclasses import replace

import numpy as np

from kdhpc.cluster import slurm
from kdhpc.cluster.own_job import job_id
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.paths import StudyPaths, compile_cache_dir, packed_dir
from kdhpc.config.schema import DeviceConfig, SearchConfig, networks_label
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ClusterError, ConfigError, DeviceLostError, KdhpcError, StudyMismatchError
from kdhpc.garbage import collect_as_usual
from kdhpc.losses.kinds import kinds_of
from kdhpc.networks.own import register_imported
from kdhpc.searching.concurrency import concurrency_on
from kdhpc.searching.deadline import Deadline
from kdhpc.searching.outcome import hours_line
from kdhpc.searching.plan import check_same_study, names_of
from kdhpc.searching.trial import StepKind, TrialSetting
from kdhpc.searching.trial_runner import Ended, TrialRunner
from kdhpc.study.definition import Split
from kdhpc.study.leased_trial import Owner
from kdhpc.study.study import SharedStudy
from kdhpc.tracking.recorder import UNTRACKED, Recorder
from kdhpc.training.compile_cache import CompileCache
from kdhpc.training.compiling import prepare_compiling
from kdhpc.training.device import fixed_precision
from kdhpc.training.device_errors import device_errors_in_words
from kdhpc.training.made_with import device_name, made_with
from kdhpc.training.runtime import Runtime, resolve_runtime
from kdhpc.words import counted

_LOG = logging.getLogger(__name__)
_POLL_S = 5.0


def run_worker(study: SharedStudy, config: SearchConfig, stop: StopSignals) -> int:
    """Lease and train, slot after slot, until nothing is left to train, the study is drained or a signal came.

    Returns:
        Trials that this worker finished.

    Raises:
        ClusterError: too many trials in a row crashed here, or the job's time limit is too short for an epoch.
        DatabaseError: the database stayed away.
        DeviceError: there is no memory on the GPU for what all trials need, or this process has lost the GPU: then
            other trials of it were given back as their last checkpoints have them.
        StorageError: a disk refuses what a trial, or all of them, need.
        StudyMismatchError: the config, its precision, the packed data, or pretrained weights are not those that the
            study was made with: as where the study was deleted and made again since this worker was launched. Or this
            worker's device cannot compute in the study's precision.
    """
    recorder = Recorder(config.tracking)
    with device_errors_in_words():
        setting = trial_setting(study, config, recorder)
        _log_device(setting.runtime)
        setting, cache = _compiling(setting)
        worker = _Worker(study, setting, stop, cache)
    # Between trials, and before a CUDA graph is recorded, garbage is collected: not through all that was imported.
    collect_as_usual()
    try:
        with device_errors_in_words():
            worker.work()
    except DeviceLostError:
        worker.abandon()
        raise
    except KdhpcError:
        worker.interrupt()
        raise
    finally:
        recorder.close(hurry=stop.requested)
    return worker.finished


class _Worker:
    """Keeps its trial runners busy."""

    def __init__(
        self, study: SharedStudy, setting: TrialSetting, stop: StopSignals, cache: CompileCache | None
    ) -> None:
        self.finished = 0
        self._cache = cache
        self._study = study
        self._config = setting.config
        self._stop = stop
        self._ending = False
        self._failures = 0
        self._ask_again = 0.0
        self._owner = Owner.current(job=job_id(), restarts=slurm.num_restarts())
        _free_slots_of_the_dead(study, self._owner)
        self._deadline = Deadline(setting.paths, self._config.cluster.signal_delay_s, num_begun=study.num_begun)
        device = setting.runtime.device
        self._concurrency = concurrency_on(self._config, device)
        self._runners = [
            TrialRunner(setting, device, self._is_stopping, may_be_crowded=self._may_be_crowded)
            for _ in range(self._concurrency.most)
        ]

    def work(self) -> None:
        """Until nothing is left to do here."""
        while True:
            if not self._is_stopping():
                self._fill_runners()
            busy = self._busy_runners()
            if not busy and (self._is_stopping() or not self._is_waiting_for_others()):
                return
            only_steps = True
            for runner in busy:
                if not runner.busy:  # Its trial was given back in another's step.
                    continue
                kind = runner.step()
                only_steps = only_steps and kind is StepKind.STEP
                self._note(kind)
            self._concurrency.note_round(len(busy), only_steps=only_steps)

    def interrupt(self) -> None:
        """Checkpoint the trials that run and give them back, as far as that can be done."""
        self._ending = True
        for runner in self._runners:
            while runner.busy:
                try:
                    runner.step()
                except KdhpcError as exc:
                    _LOG.warning("a trial was not given back, its lease will expire: %s", exc)
                    break

    def abandon(self) -> None:
        """Give the trials that run back as they are on the disk: there is no device to go on with."""
        for runner in self._busy_runners():
            runner.give_back()

    def _is_stopping(self) -> bool:
        return self._ending or self._stop.requested

    def _busy_runners(self) -> list[TrialRunner]:
        return [runner for runner in self._runners if runner.busy]

    def _may_be_crowded(self) -> bool:
        return self._concurrency.may_be_too_many(len(self._busy_runners()))

    def _fill_runners(self) -> None:
        """Give trials to free runners, while there are trials and time; no runner too many keeps its memory."""
        num_missing = self._concurrency.num_trials - len(self._busy_runners())
        for runner in self._runners:
            if runner.busy:
                continue
            if num_missing <= 0:
                runner.free_memory()
                continue
            if time.monotonic() < self._ask_again:
                return
            short_s = self._deadline.seconds_short()
            if short_s and not self._busy_runners():
                self._run_out_of_time(short_s)
            trial = None
            if not short_s:
                worker = self._config.worker
                trial = self._study.lease(self._owner, lease_s=worker.lease_s, renew_s=worker.renew_s)
            if trial is None:
                self._ask_again = time.monotonic() + _POLL_S
                return
            runner.take(trial)
            num_missing -= 1

    def _run_out_of_time(self, short_s: float) -> None:
        """Nothing runs, and no other trial could reach its first report before the job's time limit."""
        too_short_s = self._deadline.seconds_too_short()
        if too_short_s:
            raise ClusterError(
                f"this job's time limit is {too_short_s:.0f} s too short for a trial's first epoch: raise "
                "cluster.time_min"
            )
        if self._study.num_waiting():
            _LOG.info("the job's time limit is %.0f s too near for another trial", short_s)
            # What Slurm would do in a moment: the job is requeued.
            signal.raise_signal(signal.SIGUSR2)

    def _is_waiting_for_others(self) -> bool:
        """Nothing runs here: whether a trial may soon be free for this worker; waits a while."""
        if _is_more_to_come(self._study, self._config.worker.renew_s):
            time.sleep(_POLL_S)
            self._ask_again = 0.0
            return True
        name = self._study.definition.name
        if self._study.is_draining():
            _LOG.info(
                "study %s is stopped: `kdhpc search` or `kdhpc launch`, with --study %s, goes on with it", name, name
            )
        elif left := self._study.progress().beyond_hours:
            hours = self._study.hours()
            _LOG.info("%s", hours_line(name, hours.used, hours.budget, left))
        else:
            _LOG.info("nothing is left to train in study %s", name)
        return False

    def _note(self, kind: StepKind | Ended) -> None:
        if kind is StepKind.SCORED or (isinstance(kind, Ended) and kind.finished):
            self._publish()
        if isinstance(kind, Ended):
            self._note_end(kind)

    def _publish(self) -> None:
        """Let other workers begin with what was compiled here, once, beside the training."""
        if self._cache is not None and self._cache.is_used:
            threading.Thread(target=self._cache.publish, name="compile-cache").start()
            self._cache = None

    def _note_end(self, ended: Ended) -> None:
        self._ask_again = 0.0
        if ended.crowded:
            self._make_room()
        self._deadline.learn(ended.number)
        self.finished += ended.finished
        self._failures = self._failures + 1 if ended.crashed else 0
        if self._failures >= self._config.worker.max_failures:
            raise ClusterError(
                f"{counted(self._failures, 'trial')} in a row crashed on {self._owner.host} (worker.max_failures): "
                "see this worker's log"
            )

    def _make_room(self) -> None:
        """There was no memory for one more: train fewer at once, and let none that is too many begin."""
        busy = self._busy_runners()
        self._concurrency.retreat(num_left=len(busy))
        num_surplus = max(0, len(busy) - self._concurrency.num_trials)
        waiting = [runner for runner in reversed(busy) if not runner.has_stepped]
        for runner in waiting[:num_surplus]:
            runner.give_back()


def _compiling(setting: TrialSetting) -> tuple[TrialSetting, CompileCache | None]:
    """The setting as its trials are compiled, and what this worker compiles with others; None: nothing."""
    runtime, cache = prepare_compiling(
        setting.training,
        name=networks_label([network.name for network in setting.config.possible_networks])
        if setting.config.study.networks
        else setting.config.network.name,
        num_nodes=setting.config.study.num_nodes,
        folder=compile_cache_dir(),
        is_shared=True,
    )
    return replace(setting, runtime=runtime), cache


def _log_device(runtime: Runtime) -> None:
    """How trials are trained here; ``kdhpc status`` shows the mode that came of it."""
    mode = "auto" if runtime.mode_is_open else runtime.mode
    name = "CPU" if runtime.device.type == "cpu" else device_name(runtime.device)
    _LOG.info("device %s, precision %s, mode %s", name, runtime.precision, mode)
    # Now, and not when a trial ends: a checkout may be changed while a worker runs.
    _LOG.info("made with %s", ", ".join(f"{name} {version}" for name, version in made_with(runtime.device).items()))


def _free_slots_of_the_dead(study: SharedStudy, owner: Owner) -> None:
    """What this job held before it was killed and requeued, and processes of this machine that are gone."""
    owners = [lease.owner for lease in study.active_leases()]
    freed = study.expire(other for other in owners if other.is_gone or other.is_followed_by(owner))
    if freed:
        _LOG.info("freed %d slots of workers that have ended", freed)


def _is_more_to_come(study: SharedStudy, renew_s: float) -> bool:
    """Whether a trial waits that this worker may not have yet, or some worker has not renewed its lease in time."""
    if study.is_draining():
        return False
    return study.num_waiting() > 0 or any(lease.lease_age_s > 2 * renew_s for lease in study.active_leases())


def _data_digest(checksum: str, split: Split) -> str:
    """Names the images of a data set, and which of them train and which score."""
    digest = hashlib.sha256(checksum.encode())
    for half in (split.train, split.validation):
        digest.update(f" {len(half)} ".encode())
        digest.update(np.ascontiguousarray(half, dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def _runtime_of_the_study(study: SharedStudy, config: SearchConfig) -> tuple[DeviceConfig, Runtime]:
    """This worker's device config and what it means here, in the study's precision; its first worker settles that."""
    threads, precision, wanted = slurm.own_cpus(), study.definition.precision, config.device
    # Where the study has a precision, what the config names is the same, and is refused below if it cannot be.
    runtime = resolve_runtime(wanted if precision is None else replace(wanted, precision="auto"), threads=threads)
    if precision is None:
        precision = study.settle_precision(runtime.precision)
        check_same_study(study, config)
    try:
        fixed = fixed_precision(wanted, runtime.device, precision)
    except ConfigError as exc:
        name = study.definition.name
        raise StudyMismatchError(f"study {name!r} is computed in {precision}, and this worker cannot: {exc}") from exc
    return fixed, resolve_runtime(fixed, device=runtime.device, threads=threads)


def trial_setting(study: SharedStudy, config: SearchConfig, recorder: Recorder = UNTRACKED) -> TrialSetting:
    """Open the data once for all trials of this worker, and settle what they are computed in.

    Raises:
        StudyMismatchError: as :func:`run_worker`.
    """
    check_same_study(study, config)
    for network in config.possible_networks:
        register_imported(network.name)
    kinds = kinds_of(names_of(config))
    device_config, runtime = _runtime_of_the_study(study, config)
    config = replace(config, device=device_config)
    runtime.enforce()
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    if packed.checksum != study.definition.dataset_checksum:
        raise StudyMismatchError(
            f"study {study.definition.name!r} was made with {config.dataset.name} of checksum "
            f"{study.definition.dataset_checksum}, the packed data here have {packed.checksum}: prepare the same data"
        )
    return TrialSetting(
        config=config,
        study_uid=study.uid,
        recorder=recorder,
        paths=StudyPaths.of(study.definition.name),
        data=_data_digest(packed.checksum, study.split),
        pretrained_weights=study.definition.pretrained_weights,
        train=TrainBatches(
            packed.train,
            study.split.train,
            config.dataset,
            batch_size=config.training.batch_size,
            device=runtime.device,
            channels_last=runtime.channels_last,
        ),
        evaluation=EvalBatches(
            packed.train,
            study.split.validation,
            config.dataset,
            batch_size=config.training.eval_batch_size,
            device=runtime.device,
            channels_last=runtime.channels_last,
        ),
        num_classes=len(packed.classes),
        runtime=runtime,
        kinds=kinds,
    )
