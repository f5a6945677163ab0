"""Another chance for trials that failed: their slots can be leased again, and they go on where they stood."""

from collections.abc import Collection

from sqlalchemy import Connection, text

from kdhpc.config.goals import GOALS
from kdhpc.errors import StudyError
from kdhpc.study import median_rule, slots, trial_rows
from kdhpc.study.definition import StudyDefinition
from kdhpc.study.slots import EXPIRED

_STATES = text(f"""
    SELECT slot, CASE
        WHEN slots.state = 'failed' THEN 'failed'
        WHEN slots.state = 'held' AND NOT {EXPIRED} THEN 'running'
        WHEN slots.state IN ('free', 'held') THEN 'waiting'
        WHEN diverged_at IS NOT NULL THEN 'diverged'
        ELSE lower(CAST(trials.state AS text)) END AS state
    FROM kdhpc_slots AS slots LEFT JOIN trials USING (trial_id)
    WHERE slots.study_id = :study_id ORDER BY slot
""")
# A free slot has no lease; this token tells a repeated call, whose first answer was lost, that it is done.
_WAS_FREED = text("SELECT slot FROM kdhpc_slots WHERE study_id = :study_id AND lease = :token ORDER BY slot")
_FREE = text("""
    UPDATE kdhpc_slots SET state = 'free', attempts = 0, reason = NULL, lease = :token, expires = NULL
    WHERE study_id = :study_id AND slot = ANY(:numbers) AND state = 'failed' RETURNING slot, trial_id
""")


def retry(
    connection: Connection, study_id: int, definition: StudyDefinition, numbers: Collection[int] | None, *, token: str
) -> tuple[int, ...]:
    """Free the slots of trials that failed, with no attempt counted; what they have reported decides again.

    Args:
        connection: in a transaction.
        study_id: Optuna's id of the study.
        definition: what it was made with.
        numbers: of the trials; None: all that failed.
        token: of this call; a call that is repeated with it changes nothing.

    Returns:
        Numbers of the trials, rising.

    Raises:
        StudyError: a trial is not failed, or does not exist; the message says which.
    """
    values = {"study_id": study_id, "token": token}
    if freed := tuple(connection.execute(_WAS_FREED, values).scalars()):
        return freed
    states: dict[int, str] = {row.slot: row.state for row in connection.execute(_STATES, values)}
    failed = [number for number, state in states.items() if state == "failed"]
    wrong = [number for number in sorted(numbers or ()) if number not in failed]
    if wrong:
        found = ", ".join(f"trial {number} {_words(states.get(number))}" for number in wrong)
        raise StudyError(
            f"{found}: only failed trials of study '{definition.name}' can be tried again "
            f"({', '.join(map(str, failed)) or 'there are none'})"
        )
    chosen = failed if numbers is None else sorted(set(numbers))
    freed_now = connection.execute(_FREE, {**values, "numbers": chosen}).all()
    slots.remember(connection, study_id, [row.slot for row in freed_now], how=slots.FAILED)
    trial_ids = [row.trial_id for row in freed_now]
    trial_rows.reopen(connection, trial_ids)
    median_rule.list_again(
        connection,
        trial_ids,
        definition.pruner,
        prune_from=definition.prune_from,
        last_epoch=definition.last_epoch,
        sign=GOALS[definition.goal].sign,
    )
    return tuple(sorted(row.slot for row in freed_now))


def _words(state: str | None) -> str:
    return "does not exist" if state is None else f"is {state}"
