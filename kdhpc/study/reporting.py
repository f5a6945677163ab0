"""Reports and the pruning decision: one statement, fenced by the lease.

The paper's rule: a trial is pruned when its accuracy is below the median of the other trials at the same epoch.
Optuna's ``MedianPruner`` is another rule: it takes a trial's best report so far, and compares with complete trials.

The median itself is not needed, only on which side of it a value is. Of n others, b have at most this value:

    2 b < n    more than half are above: below the median
    2 b > n    at least half are not above: not below it
    2 b = n    the median is the mean of the highest of the b and the lowest of the others

So reports are counted in an index, not sorted.
"""

from sqlalchemy import Connection, text

from kdhpc.study.slots import Lease

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
"""The reports that decide: of trials that did not fail, before the last epoch, in studies with the median rule."""

# A value that is there already stays: the trial was resumed from before its report.
_WRITE = """
    WITH held AS (
        UPDATE kdhpc_slots SET renewed = now(), expires = now() + :lease_s * interval '1 second'
        WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
        RETURNING trial_id
    ), written AS (
        INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
        SELECT trial_id, :epoch, :value, 'FINITE' FROM held
        ON CONFLICT (trial_id, step) DO NOTHING RETURNING trial_id
    )
"""
_REPORT = text(f"{_WRITE} SELECT false AS is_below_median FROM held")
# All is read as it was when the statement began: of trials that report at the same moment, none counts the others.
_REPORT_AND_JUDGE = text(f"""
    {_WRITE}, listed AS (
        INSERT INTO kdhpc_reports (trial_id, epoch, study_id, value)
        SELECT trial_id, :epoch, :study_id, :value FROM written
    ), own AS (
        SELECT trial_id, coalesce(before.value, :value) AS value
        FROM held LEFT JOIN (SELECT * FROM kdhpc_reports WHERE epoch = :epoch) AS before USING (trial_id)
    ), counted AS (
        SELECT own.trial_id, own.value, others.* FROM own, LATERAL (
            SELECT count(*) AS num, count(*) FILTER (WHERE value <= own.value) AS num_up_to FROM kdhpc_reports
            WHERE study_id = :study_id AND epoch = :epoch AND trial_id <> own.trial_id
        ) AS others
    )
    SELECT CASE WHEN 2 * num_up_to <> num THEN 2 * num_up_to < num ELSE coalesce(value < (
        (SELECT max(value) FROM kdhpc_reports
         WHERE study_id = :study_id AND epoch = :epoch AND value <= counted.value AND trial_id <> counted.trial_id)
        + (SELECT min(value) FROM kdhpc_reports
           WHERE study_id = :study_id AND epoch = :epoch AND value > counted.value)
    ) / 2, false) END AS is_below_median
    FROM counted
""")
_FORGET = text("DELETE FROM kdhpc_reports WHERE trial_id = :trial_id")


def report(connection: Connection, lease: Lease, epoch: int, value: float, *, judges: bool) -> bool | None:
    """Write a value and renew the lease.

    Args:
        connection: in a transaction.
        lease: of the trial's slot.
        epoch: 1-based.
        value: of the trial, in percent.
        judges: the median rule is asked; of one epoch, for all trials or for none.

    Returns:
        Whether the value is below the median of the other trials that reached this epoch and did not fail, False if
        there are none; none if the lease is lost. Source: paper section 4.2.
    """
    values = {**lease.key, "lease_s": lease.duration_s, "epoch": epoch, "value": value}
    below: bool | None = connection.execute(_REPORT_AND_JUDGE if judges else _REPORT, values).scalar_one_or_none()
    return below


def forget(connection: Connection, trial_id: int) -> None:
    """Leave a trial out of all medians to come: it has failed."""
    connection.execute(_FORGET, {"trial_id": trial_id})
