"""A small web server of the standard library, for one user."""

import sys
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer


def open_server(host: str, port: int) -> WSGIServer:
    """A server that listens, and answers each request in a thread of its own; it tells nobody of requests.

    Args:
        host: Address of this machine.
        port: 0: any that is free.

    Raises:
        OSError: the port is taken, or not allowed.
    """
    server = _Server((host, port), _Handler)
    return server


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # Without asking for the name of the address, which takes long where name servers are away.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that has gone before it got its answer is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Tell nothing."""
