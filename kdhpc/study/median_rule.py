"""Reports and the pruning decision: one statement, fenced by the lease.

A decision is made once, when a report is written for the first time, and stored with it: whoever reports the same epoch
of the trial again, because the worker before died, gets the same answer.

``median``, the paper's rule: a trial is pruned when its accuracy is below the median of the other trials at the same
epoch. Optuna's ``MedianPruner`` is another rule: it takes a trial's best report so far, and compares with complete
trials. The median itself is not needed, only on which side of it a value is. Of n others, b have at most this value:

    2 b < n    more than half are above: below the median
    2 b > n    at least half are not above: not below it
    2 b = n    the median is the mean of the highest of the b and the lowest of the others

``asha``, the rule of Optuna's ``SuccessiveHalvingPruner`` (1, 2, 0), whose rungs are the epochs 1, 2, 4, ...: of all
trials that have reached the rung, this one included, the better half goes on (rounded down, at least one).

So reports are counted in an index, not sorted. Trials that failed are left out. What decides is a score, the higher
the better: the value, or where the study minimises it, the value with the other sign.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, TextClause, text

from kdhpc.study.slots import RENEWED, Lease, attempts_after

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS kdhpc_reports (
        trial_id integer NOT NULL REFERENCES trials ON DELETE CASCADE,
        epoch integer NOT NULL,
        study_id integer NOT NULL,
        value double precision NOT NULL,
        PRIMARY KEY (trial_id, epoch)
    )
    """,
    "CREATE INDEX IF NOT EXISTS kdhpc_reports_by_value ON kdhpc_reports (study_id, epoch, value, trial_id)",
)
"""The reports that decide: of trials that did not fail, before the last epoch, in studies that prune. ``value`` is the
score."""

_OTHERS = "FROM kdhpc_reports WHERE study_id = :study_id AND epoch = :epoch AND trial_id <> :trial_id"
# All is read as it was when the statement began: of trials that report at the same moment, none counts the others.
_RULES = {
    "median": f"""
        (SELECT CASE WHEN 2 * num_up_to <> num THEN 2 * num_up_to < num ELSE coalesce(
            :score < ((SELECT max(value) {_OTHERS} AND value <= :score)
                + (SELECT min(value) {_OTHERS} AND value > :score)) / 2, false) END
        FROM (SELECT count(*) AS num, count(*) FILTER (WHERE value <= :score) AS num_up_to {_OTHERS}) AS counted)
    """,
    "asha": f"""
        (SELECT num_above >= greatest(1, (num + 1) / 2)
        FROM (SELECT count(*) AS num, count(*) FILTER (WHERE value > :score) AS num_above {_OTHERS}) AS counted)
    """,
}


def _report(*clauses: str, prunes: str, answer: str) -> TextClause:
    """The statement; a value that is there already stays, and is told what it was told then.

    A new report is progress: it comes from further than the trial has ever been.
    """
    return text(f"""
        WITH known AS (
            SELECT EXISTS (
                SELECT 1 FROM trial_intermediate_values WHERE trial_id = :trial_id AND step = :epoch) AS is_known
        ), judged AS (
            SELECT is_known, CASE WHEN is_known THEN false ELSE {prunes} END AS prunes FROM known
        ), held AS (
            UPDATE kdhpc_slots SET {RENEWED}, attempts = {attempts_after("NOT is_known OR :step > progress")},
                pruned_at = CASE WHEN prunes THEN pruned_at || :epoch ELSE pruned_at END
            FROM judged
            WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
            RETURNING trial_id, pruned_at
        ), written AS (
            INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
            SELECT trial_id, :epoch, :value, 'FINITE' FROM held
            ON CONFLICT (trial_id, step) DO NOTHING RETURNING trial_id
        ){"".join(f", {clause}" for clause in clauses)}
        SELECT {answer} AS prunes FROM held
    """)


_LISTED = """
    listed AS (
        INSERT INTO kdhpc_reports (trial_id, epoch, study_id, value)
        SELECT trial_id, :epoch, :study_id, :score FROM written
    )
"""
_REPORT = _report(prunes="false", answer="false")
_REPORT_AND_JUDGE = {
    pruner: _report(_LISTED, prunes=rule, answer=":epoch = ANY(pruned_at)") for pruner, rule in _RULES.items()
}
_FORGET = text("DELETE FROM kdhpc_reports WHERE trial_id = :trial_id")
_LIST_AGAIN = text("""
    INSERT INTO kdhpc_reports (trial_id, epoch, study_id, value)
    SELECT trial_id, step, study_id, CAST(:sign AS integer) * intermediate_value
    FROM trials JOIN trial_intermediate_values USING (trial_id)
    WHERE trial_id = ANY(:trial_ids) AND step = ANY(:epochs)
    ON CONFLICT DO NOTHING
""")


def decides(pruner: str, epoch: int, *, prune_from: int, last_epoch: int) -> bool:
    """Whether trials can be pruned at an epoch: never at the last one, where a trial is complete."""
    is_power_of_two = epoch & (epoch - 1) == 0
    return prune_from <= epoch < last_epoch and (pruner == "median" or (pruner == "asha" and is_power_of_two))


def report(
    connection: Connection, lease: Lease, epoch: int, value: float, *, score: float, rule: str | None, step: int
) -> bool | None:
    """Write a value and renew the lease.

    Args:
        connection: in a transaction.
        lease: of the trial's slot.
        epoch: 1-based.
        value: of the trial, by the study's goal.
        score: the same, or with the other sign: the higher, the better.
        rule: that decides at this epoch, for all trials: ``median`` or ``asha``; None: no trial is pruned at it.
        step: optimiser step that the trial has reached.

    Returns:
        Whether the trial is to be pruned, False if no other has reached this epoch; the answer that was given before,
        if this epoch is reported again; None if the lease is lost. Source: paper section 4.2.
    """
    values = {
        **lease.key,
        "lease_s": lease.duration_s,
        "trial_id": lease.trial_id,
        "epoch": epoch,
        "value": value,
        "step": step,
        **({} if rule is None else {"score": score}),
    }
    query = _REPORT if rule is None else _REPORT_AND_JUDGE[rule]
    prunes: bool | None = connection.execute(query, values).scalar_one_or_none()
    return prunes


def forget(connection: Connection, trial_id: int) -> None:
    """Leave a trial out of all decisions to come: it has failed."""
    connection.execute(_FORGET, {"trial_id": trial_id})


def list_again(
    connection: Connection, trial_ids: Sequence[int], pruner: str, *, prune_from: int, last_epoch: int, sign: int
) -> None:
    """Take trials that had failed into the decisions again, by what they have reported.

    Args:
        connection: in a transaction.
        trial_ids: Optuna's ids of them.
        pruner: of the study.
        prune_from: before which no trial is pruned.
        last_epoch: at which no trial is pruned.
        sign: times a value: its score.
    """
    epochs = [
        epoch for epoch in range(1, last_epoch) if decides(pruner, epoch, prune_from=prune_from, last_epoch=last_epoch)
    ]
    connection.execute(_LIST_AGAIN, {"trial_ids": list(trial_ids), "epochs": epochs, "sign": sign})
