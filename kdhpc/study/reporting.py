"""Reports and the pruning decision: one statement, fenced by the lease.

The paper's rule: a trial is pruned when its accuracy is below the median of the other trials at the same epoch.
Optuna's ``MedianPruner`` is another rule: it takes a trial's best report so far, and compares with complete trials.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from kdhpc.study.slots import Lease

# Of several trials that report at the same moment, none counts the others.
# A value that is there already stays: the trial was resumed from before its report.
_REPORT = text("""
    WITH held AS (
        UPDATE kdhpc_slots SET renewed = now(), expires = now() + :lease_s * interval '1 second'
        WHERE study_id = :study_id AND slot = :slot AND lease = :lease AND state = 'held'
        RETURNING trial_id
    ), written AS (
        INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
        SELECT trial_id, :epoch, :value, 'FINITE' FROM held
        ON CONFLICT (trial_id, step) DO NOTHING
    )
    SELECT
        coalesce((SELECT intermediate_value FROM trial_intermediate_values JOIN held USING (trial_id)
                  WHERE step = :epoch), :value) AS value,
        (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY intermediate_value)
         FROM trials JOIN trial_intermediate_values USING (trial_id)
         WHERE :wants_median AND study_id = :study_id AND state <> 'FAIL' AND step = :epoch
             AND trial_id <> held.trial_id) AS median
    FROM held
""")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What stands in the database after a report."""

    value: float
    """The trial's value at this epoch, in percent."""
    median: float | None
    """Of the other trials that reached this epoch and did not fail; none: there are none, or it was not wanted."""

    @property
    def is_below_median(self) -> bool:
        """The paper's rule. Source: paper section 4.2."""
        return self.median is not None and self.value < self.median


def report(connection: Connection, lease: Lease, epoch: int, value: float, *, wants_median: bool) -> Report | None:
    """Write a value, renew the lease, and read what the pruning rule needs; none if the lease is lost."""
    row = connection.execute(
        _REPORT,
        {**lease.key, "lease_s": lease.duration_s, "epoch": epoch, "value": value, "wants_median": wants_median},
    ).one_or_none()
    return None if row is None else Report(value=row.value, median=row.median)
