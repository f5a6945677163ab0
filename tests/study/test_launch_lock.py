"""One launcher at a time: the row that it holds, and who gets it when."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text

from kdhpc.errors import DatabaseError
from kdhpc.study import launch_lock
from kdhpc.study.owner import Owner, to_json
from kdhpc.study.storage import Storage
from tests.study.made import scalar

HOLD = text("""
    INSERT INTO kdhpc_locks (name, owner, token, renewed) VALUES ('launch', :owner, :token, now() + :age)
""")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_lock, "_POLL_S", (0.01, 0.02))
    monkeypatch.setattr(launch_lock, "_PATIENCE_S", 1.0)


def hold(storage: Storage, owner: Owner, *, age: str = "0") -> None:
    """Let another process hold the lock, renewed at that time from now."""
    storage.exclusively(lambda: None)
    values = {"owner": to_json(owner), "token": owner.token, "age": age}
    storage.write(lambda connection: connection.execute(HOLD, values))


def elsewhere() -> Owner:
    return replace(Owner.current(), host="login2", pid=17, process_space="another machine")


def test_work_of_several_launchers_never_overlaps(storage: Storage) -> None:
    storages = [Storage.connect() for _ in range(4)]
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        inside.append(1)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()

    threads = [threading.Thread(target=lambda own=own: [own.exclusively(work) for _ in range(3)]) for own in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert scalar(storage, "SELECT count(*) FROM kdhpc_locks") == 0
    for own in storages:
        own.close()


def test_error_of_the_work_releases_the_lock(storage: Storage) -> None:
    def fail() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        storage.exclusively(fail)
    assert storage.exclusively(lambda: 42) == 42


def test_lock_of_a_process_of_this_machine_that_has_ended_is_free_at_once(storage: Storage) -> None:
    code = "from kdhpc.study import owner; print(owner.to_json(owner.Owner.current()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    hold(storage, launch_lock.owners.from_json(told))
    assert storage.exclusively(lambda: 42) == 42


@pytest.mark.parametrize("age", ["-1 hour", "1 hour"])
def test_lock_that_nobody_renews_or_of_a_clock_that_was_set_back_is_free(storage: Storage, age: str) -> None:
    hold(storage, elsewhere(), age=age)
    assert storage.exclusively(lambda: 42) == 42


def test_lock_that_is_held_elsewhere_is_waited_for_and_its_holder_named(storage: Storage) -> None:
    hold(storage, elsewhere())
    with pytest.raises(DatabaseError, match="process 17 on login2 launches workers or makes a study just now"):
        storage.exclusively(lambda: 42)
    threading.Timer(0.2, lambda: storage.write(lambda c: c.execute(text("DELETE FROM kdhpc_locks")))).start()
    assert storage.exclusively(lambda: 42) == 42


def test_lock_is_renewed_while_the_work_lasts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_lock, "_RENEW_S", 0.05)
    monkeypatch.setattr(launch_lock, "_LEASE_S", 0.3)
    other = Storage.connect()
    ended = threading.Event()

    def long_work() -> None:
        time.sleep(1.0)
        ended.set()

    holding = threading.Thread(target=lambda: storage.exclusively(long_work))
    holding.start()
    while scalar(other, "SELECT count(*) FROM kdhpc_locks") == 0:
        time.sleep(0.01)
    monkeypatch.setattr(launch_lock, "_PATIENCE_S", 60.0)
    assert other.exclusively(ended.is_set)
    holding.join()
    other.close()
