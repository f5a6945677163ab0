"""A worker: claims slots of a study and trains their graphs until nothing is left to claim."""

import logging
import signal
import time

import torch

from kdhpc.cluster import slurm
from kdhpc.cluster.deadline import Deadline
from kdhpc.cluster.job import job_id
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.paths import StudyPaths, packed_dir
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset
from kdhpc.errors import ClusterError, DatabaseError, LeaseLostError, StudyMismatchError
from kdhpc.study.claim import Claim, Owner
from kdhpc.study.study import SharedStudy
from kdhpc.training.device import resolve_device
from kdhpc.trial import TrialSetting, run_trial

_LOG = logging.getLogger(__name__)
_POLL_S = 5.0


def run_worker(study: SharedStudy, config: SearchConfig, stop: StopSignals) -> int:
    """Claim and train, slot after slot, until nothing is left to claim, the study is drained or a signal came.

    Returns:
        Trials that this worker finished.

    Raises:
        ClusterError: too many trials in a row crashed here, or the job's time limit is too short for an epoch.
        StudyMismatchError: the packed data are not those that the study was made with.
    """
    setting = _setting(study, config)
    owner = Owner.current(job=job_id())
    _free_slots_of_earlier_runs(study, owner)
    deadline = Deadline(setting.paths, config.cluster.signal_delay_s)
    finished = failures = 0
    while not stop.requested:
        short_s = deadline.seconds_short()
        if short_s and finished == failures == 0:
            raise ClusterError(
                f"this job's time limit is {short_s:.0f} s too short for a trial's first epoch: raise cluster.time_min"
            )
        if short_s and study.progress().waiting:
            _LOG.info("the job's time limit is %.0f s too near for another trial", short_s)
            # What Slurm would do in a moment: the job is requeued.
            signal.raise_signal(signal.SIGUSR2)
            break
        claim = study.claim(owner, lease_s=config.worker.lease_s, renew_s=config.worker.renew_s)
        if claim is None and _silent(study, config.worker.renew_s):
            time.sleep(_POLL_S)
            continue
        if claim is None:
            _LOG.info("nothing to claim in study %s", study.definition.name)
            break
        done = _run_claimed(claim, setting, stop)
        deadline.learn(claim.number)
        finished += done is True
        failures = 0 if done is not None else failures + 1
        if failures >= config.worker.max_failures:
            raise ClusterError(
                f"{failures} trials in a row crashed on {owner.host} (worker.max_failures): see this worker's log"
            )
    return finished


def _run_claimed(claim: Claim, setting: TrialSetting, stop: StopSignals) -> bool | None:
    """True: the trial ended. False: it will be continued by someone. None: it crashed."""
    _LOG.info("trial %d, slot %d, attempt %d: starts", claim.number, claim.slot, claim.attempt)
    try:
        outcome = run_trial(claim, setting, lambda: stop.requested or claim.draining)
    except LeaseLostError as exc:
        _LOG.warning("trial %d: %s", claim.number, exc)
        return False
    except DatabaseError as exc:
        if not stop.requested:
            raise
        _LOG.warning("trial %d is checkpointed; its lease will expire: %s", claim.number, exc)
        return False
    except Exception as exc:  # A worker outlives a trial that crashes: the study counts the attempt.
        _LOG.exception("trial %d crashed", claim.number)
        claim.crash(f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:500])
        return None
    _LOG.info("trial %d: %s", claim.number, outcome.value)
    return outcome.value != "interrupted"


def _free_slots_of_earlier_runs(study: SharedStudy, owner: Owner) -> None:
    """A job that was killed and requeued: what ran in it before holds nothing any more."""
    if slurm.own_job() is not None:
        gone = study.expire(
            holding.owner
            for holding in study.holdings()
            if holding.owner.job == owner.job and holding.owner.token != owner.token
        )
        if gone:
            _LOG.info("freed %d slots of this job's earlier run", gone)


def _silent(study: SharedStudy, renew_s: float) -> bool:
    """Whether some worker has not renewed its lease in time: its trial may soon be free."""
    return not study.is_draining() and any(holding.lease_age_s > 2 * renew_s for holding in study.holdings())


def _setting(study: SharedStudy, config: SearchConfig) -> TrialSetting:
    """Open the data once for all trials of this worker."""
    if config.device.threads is not None:
        torch.set_num_threads(config.device.threads)
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    if packed.checksum != study.definition.dataset_checksum:
        raise StudyMismatchError(
            f"study {study.definition.name!r} was made with {config.dataset.name} of checksum "
            f"{study.definition.dataset_checksum}, the packed data here have {packed.checksum}: prepare the same data"
        )
    device = resolve_device(config.device)
    return TrialSetting(
        config=config,
        paths=StudyPaths.of(study.definition.name),
        train=TrainBatches(
            packed.train,
            study.split.train,
            config.dataset,
            batch_size=config.training.batch_size,
            device=device,
            channels_last=config.device.channels_last,
        ),
        evaluation=EvalBatches(
            packed.train,
            study.split.validation,
            config.dataset,
            batch_size=config.training.eval_batch_size,
            device=device,
            channels_last=config.device.channels_last,
        ),
        num_classes=len(packed.classes),
    )
