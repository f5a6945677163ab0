"""Trials that another program puts into a study of kdhpc by Optuna's functions: ``enqueue_trial``, ``ask``, ``tell``.

A study of kdhpc is an ordinary one for Optuna, and Optuna numbers a new trial by counting those that are there. While
slots are still to be begun, that number would exist twice, and nobody would train the trial. So the database refuses it
until every slot is finished, and at any time refuses that another program ends a trial of kdhpc's. In a finished study,
Optuna's trials are welcome: new slots take other numbers than theirs, and no count of kdhpc's includes them.
"""

from sqlalchemy import Connection, text

GUARD = (
    """
    CREATE OR REPLACE FUNCTION kdhpc_guard_trials() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        own kdhpc_slots;
        subject text;
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            SELECT * INTO own FROM kdhpc_slots WHERE trial_id = OLD.trial_id;
            IF NOT FOUND OR (NEW.number = OLD.number AND NEW.study_id = OLD.study_id
                    AND (NEW.state = 'RUNNING') = (own.state IN ('free', 'held'))) THEN
                RETURN NEW;
            END IF;
            subject := format('trial %s of study ''%s'' is kdhpc''s: only the worker that holds it ends it',
                OLD.number, (SELECT study_name FROM studies WHERE study_id = OLD.study_id));
            RAISE EXCEPTION USING MESSAGE = subject;
        END IF;
        SELECT * INTO own FROM kdhpc_slots WHERE study_id = NEW.study_id AND slot = NEW.number;
        IF own.state = 'held' AND own.trial_id IS NULL THEN
            RETURN NEW;
        END IF;
        -- Nobody changes the number of slots meanwhile.
        PERFORM 1 FROM kdhpc_studies WHERE study_id = NEW.study_id FOR KEY SHARE;
        IF NOT FOUND OR NOT EXISTS (
                SELECT 1 FROM kdhpc_slots WHERE study_id = NEW.study_id AND state IN ('free', 'held')) THEN
            RETURN NEW;
        END IF;
        SELECT study_name INTO subject FROM studies WHERE study_id = NEW.study_id;
        -- Optuna shows what violates a constraint at once, and tries again after other errors.
        RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = format(
            'study ''%s'' is kdhpc''s and not finished: its trials are made by its workers alone; raise its budget '
            'with `kdhpc search --study %s --trials N`, and use a study of another name for other trials',
            subject, subject);
    END
    $$
    """,
    "DROP TRIGGER IF EXISTS kdhpc_guard_trials ON trials",
    """
    CREATE TRIGGER kdhpc_guard_trials BEFORE INSERT OR UPDATE OF state, number, study_id ON trials
    FOR EACH ROW EXECUTE FUNCTION kdhpc_guard_trials()
    """,
)
"""SQL statements, to be executed once the tables of kdhpc and Optuna exist.

The trigger recognises a trial of kdhpc's by its slot alone: the trial is made while the slot is held and has no trial
yet, and ends after the slot has ended.
"""

_FOREIGN = """
    FROM trials LEFT JOIN kdhpc_slots AS own ON own.trial_id = trials.trial_id
    WHERE trials.study_id = :study_id AND own.slot IS NULL
"""
TAKEN = f"""
    (SELECT trials.number {_FOREIGN} AND trials.number IS NOT NULL
    EXCEPT SELECT slot FROM kdhpc_slots WHERE study_id = :study_id AND trial_id IS NOT NULL)
"""
"""SQL: numbers that no new slot may have."""


def count(connection: Connection, study_id: int) -> int:
    """Trials in a study that no slot has: no worker of kdhpc made them."""
    return int(connection.execute(text(f"SELECT count(*) {_FOREIGN}"), {"study_id": study_id}).scalar_one())
