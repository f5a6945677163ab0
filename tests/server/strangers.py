"""Somebody else on this machine, who answers on a port that a server of ours had, or may have."""

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator

CLEAR_TEXT = b"R\0\0\0\x08\0\0\0\x03"
MD5 = b"R\0\0\0\x0c\0\0\0\x05salt"
TRUST = b"R\0\0\0\x08\0\0\0\0"
SCRAM = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0"
WAYS = {"clear text": CLEAR_TEXT, "md5": MD5, "trust": TRUST, "scram": SCRAM}
_READY = b"Z\0\0\0\x05I"


class Stranger:
    """Answers every connection by asking for a password in its way; keeps all that it is told."""

    def __init__(self, port: int, way: bytes) -> None:
        self.way = way
        self.told = b""
        self.num_dialled = 0
        self._socket = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def knows(self, password: str, user: str = "kdhpc") -> bool:
        """Whether it was told the password, or what MD5 makes of it."""
        inner = hashlib.md5((password + user).encode()).hexdigest()
        digest = hashlib.md5(inner.encode() + b"salt").hexdigest()
        return password.encode() in self.told or digest.encode() in self.told

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # Who waits for a connection would keep the port.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.num_dialled += 1
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(2.0)
                    self.told += connection.recv(4096)
                    connection.sendall(self.way + (_READY if self.way == TRUST else b""))
                    reply = connection.recv(4096)
                    self.told += reply
                    if self.way == SCRAM and b"r=" in reply:
                        first = b"r=" + reply.partition(b"r=")[2] + b"stranger,s=c2FsdA==,i=1"
                        connection.sendall(b"R" + (8 + len(first)).to_bytes(4, "big") + b"\0\0\0\x0b" + first)
                        self.told += connection.recv(4096)
                        connection.sendall(TRUST + _READY)
                        self.told += connection.recv(4096)


@contextlib.contextmanager
def stranger(port: int, way: bytes) -> Iterator[Stranger]:
    """One on a port, until the end of the block."""
    found = Stranger(port, way)
    try:
        yield found
    finally:
        found.close()


@contextlib.contextmanager
def silent_connections(port: int, count: int) -> Iterator[None]:
    """Connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        yield


HOSTILE = {
    "PGHOSTADDR": "127.0.0.9",
    "PGHOST": "127.0.0.9",
    "PGPORT": "9",
    "PGSERVICE": "nowhere",
    "PGSERVICEFILE": os.devnull,
    "PGSYSCONFDIR": "/nonexistent",
    "PGSSLMODE": "require",
    "PGREQUIRESSL": "1",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "system",
    "PGSSLMINPROTOCOLVERSION": "nonsense",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGREQUIREAUTH": "none",
    "PGREQUIREPEER": "nobody",
    "PGTARGETSESSIONATTRS": "standby",
    "PGLOADBALANCEHOSTS": "nonsense",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGUSER": "somebody",
    "PGPASSWORD": "wrong",
    "PGPASSFILE": os.devnull,
    "PGDATABASE": "nothing",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGCLIENTENCODING": "nonsense",
    "PGTZ": "Nowhere/Land",
    "PGDATESTYLE": "nonsense",
    "PGGEQO": "nonsense",
    "PGDATA": "/nonexistent",
}
"""Each keeps libpq, or a program of PostgreSQL's, from the embedded server, if it is heeded."""
