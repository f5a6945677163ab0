"""Getting the files that the quickstart needs, from a server of our own."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from torchvision.datasets import FashionMNIST

from tools.fashion_mnist import download

_CONTENTS = {name: f"content of {name}".encode() * 100 for name, _ in FashionMNIST.resources}


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """Serves the four files."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name, content in _CONTENTS.items():
        (folder / name).write_bytes(content)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=folder)) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        checksums = [(name, hashlib.md5(content).hexdigest()) for name, content in _CONTENTS.items()]
        monkeypatch.setattr(FashionMNIST, "resources", checksums)
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield server
        server.shutdown()


def test_download_gets_what_is_missing_or_cut_short_and_nothing_else(
    server: http.server.HTTPServer, tmp_path: Path
) -> None:
    first, second, third, last = _CONTENTS
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / first).write_bytes(_CONTENTS[first])
    (folder / second).write_bytes(_CONTENTS[second][:-1])
    download(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == _CONTENTS
    assert {path.strip("/") for path in server.asked} == {second, third, last}
    server.asked.clear()
    download(folder)
    assert server.asked == []


def test_download_of_something_else_is_refused(server: http.server.HTTPServer, tmp_path: Path) -> None:
    (tmp_path / "served" / next(iter(_CONTENTS))).write_bytes(b"<html>not found</html>")
    with pytest.raises(RuntimeError, match="corrupted"):
        download(tmp_path / "raw")
