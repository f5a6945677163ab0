"""What is to be said of a search whose budget is done."""

from typing import TYPE_CHECKING

from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.study.status import StudyStatus


def hours_line(study: str, used: float, budget: float | None, num_unbegun: int) -> str | None:
    """That a study's hours are used before its trials are, in one line; None: they are not.

    Args:
        study: Its name.
        used: Hours that workers have spent on its trials.
        budget: ``study.max_gpu_hours``.
        num_unbegun: Trials that are not begun because of that.
    """
    if budget is None or not num_unbegun:
        return None
    left = counted(num_unbegun, "trial")
    return (
        f"study {study} has used {used:.2f} of {budget:g} hours (study.max_gpu_hours), {left} not begun: `kdhpc "
        "search` with a larger number goes on"
    )


def problem_of(status: "StudyStatus", logs: str) -> str | None:
    """What is wrong with a study whose budget is done, in one line; None: nothing is.

    Args:
        status: Of the study.
        logs: Where its workers' logs are, in words.
    """
    trials, num_failed = status.trials, status.trials.failed + status.given_trials.failed
    see = f"see `kdhpc status --study {status.study}` and {logs}"
    if num_failed:
        return f"{counted(num_failed, 'trial')} failed, {see}; `kdhpc retry --study {status.study}` tries them again"
    if trials.diverged and not trials.complete:
        return (
            f"{counted(trials.diverged, 'trial')} diverged and none is complete, {see}; a lower learning rate may help"
        )
    return None
