"""What torch.compile has made: kept on the node, and handed from the first worker to all others.

Inductor's and Triton's caches are many small files, which a shared file system serves slowly and locks badly. So each
node has its own (`compile_folder`), and what one worker has compiled is published as one file, with which the others
begin. What is in it will be executed: only files of the user's own, which nobody else may write, are loaded.

Not by ``torch.compiler.save_cache_artifacts``: on a CPU that leaves out the compiled C++, most of the time.
"""

import dataclasses
import hashlib
import io
import json
import logging
import os
import platform
import stat
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch

from kdhpc.errors import StorageError
from kdhpc.files.writing import write_whole
from kdhpc.training.compile_folder import FOLDERS, is_named_by_user, private_folder

_LOG = logging.getLogger(__name__)
_MAGIC = b"KDHPCCMP"
_VERSION = 1
_HEADER = struct.Struct("<8sIQ32s")


@dataclass(frozen=True, kw_only=True)
class CacheKey:
    """What compiled programs depend on. Another key is another file."""

    torch: str
    """Version of torch."""
    triton: str
    """Version of Triton; empty: it is not installed."""
    python: str
    """Version of Python."""
    device: str
    """The GPU's name and compute capability, or the CPU's architecture and vector instructions."""
    network: str
    """Names the networks, and what else of the method is compiled."""
    num_nodes: int
    """M."""
    num_classes: int
    """C."""
    image_size: int
    """S, in pixels."""
    batch_size: int
    """Images a step."""
    eval_batch_size: int
    """Images a forward pass when scoring."""
    precision: str
    """Precision of the networks."""
    channels_last: bool
    """Whether images and weights are in the memory format ``channels_last``."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:16]


def device_description(device: torch.device) -> str:
    """Describes a device by all of it that compiled code depends on."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_processor()}"


def _processor() -> str:
    """Digest of the CPU's model and instructions. Inductor compiles for this very CPU, and torch tells few apart."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines()
    described = [line for line in first if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:8]


class CompileCache:
    """One key's folder on this node, and the published file of it.

    Nothing here raises: a cache that cannot be read or written costs the time of compiling, and one log line.

    Args:
        shared: Folder for published files, on the file system of all workers.
        key: What is compiled.
    """

    def __init__(self, shared: Path, key: CacheKey) -> None:
        self._path = shared / f"{key.digest}.bin"
        self._digest = key.digest
        self._folder: Path | None = None

    @property
    def is_used(self) -> bool:
        """Whether what is compiled is kept for it."""
        return self._folder is not None

    def use(self) -> None:
        """Let Inductor and Triton keep what they make on this node, beginning with what was published.

        In a private folder, see `compile_folder`. Where the user has named a place (``TORCHINDUCTOR_CACHE_DIR``,
        ``TRITON_CACHE_DIR``), that is used, and nothing else is done. To be called before anything is compiled.
        """
        if any(is_named_by_user(variable) for variable in FOLDERS):
            return
        try:
            folder = private_folder() / self._digest
            for variable, name in FOLDERS.items():
                (folder / name).mkdir(parents=True, exist_ok=True)
                os.environ[variable] = str(folder / name)
        except (OSError, StorageError) as exc:
            _LOG.warning("compiled programs are not kept: %s", exc)
            return
        self._folder = folder
        try:
            self._load(folder, self._read())
        except FileNotFoundError:
            return  # Nobody has published yet.
        except (OSError, StorageError, ValueError, EOFError, tarfile.TarError) as exc:
            _LOG.warning("compile cache %s is ignored: %s", self._path, exc)

    def publish(self) -> bool:
        """Write the file that other nodes begin with, unless there is one; whether it was written."""
        if self._folder is None or self._is_usable():
            return False
        content = io.BytesIO()
        try:
            with tarfile.open(fileobj=content, mode="w:gz", compresslevel=1) as archive:
                archive.add(self._folder, arcname=".", filter=lambda entry: entry if _is_kept(entry) else None)
            artifacts = content.getvalue()
            header = _HEADER.pack(_MAGIC, _VERSION, len(artifacts), hashlib.sha256(artifacts).digest())
            write_whole(self._path, header, artifacts, mode=0o600)
        except (OSError, StorageError) as exc:
            _LOG.warning("compile cache %s is not published: %s", self._path, exc)
            return False
        _LOG.info("published the compile cache %s, %.1f MB", self._path, len(artifacts) / 1e6)
        return True

    @staticmethod
    def _load(folder: Path, artifacts: bytes) -> None:
        """Add the published files that are not there; those that are may be in use.

        Nothing is flushed: the folder is temporary, and the files are many.
        """
        with tarfile.open(fileobj=io.BytesIO(artifacts), mode="r:gz") as archive:
            for entry in archive:
                name = Path(entry.name)
                place = folder / name
                if not entry.isreg() or name.is_absolute() or ".." in name.parts or place.exists():
                    continue
                file = archive.extractfile(entry)
                assert file is not None
                write_whole(place, file.read(), mode=entry.mode & 0o700, durable=False)

    def _is_usable(self) -> bool:
        try:
            self._read()
        except (OSError, ValueError):
            return False
        return True

    def _read(self) -> bytes:
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError("it is not ours alone to write, and loading it would execute what it holds")
            content = file.read()
        if len(content) < _HEADER.size:
            raise ValueError("it is cut off")
        magic, version, length, digest = _HEADER.unpack_from(content)
        if (magic, version) != (_MAGIC, _VERSION):
            raise ValueError("it is of another format")
        artifacts = content[_HEADER.size :]
        if len(artifacts) != length or hashlib.sha256(artifacts).digest() != digest:
            raise ValueError("it is damaged")
        return artifacts


def _is_kept(entry: tarfile.TarInfo) -> bool:
    return entry.isdir() or (entry.isreg() and not entry.name.endswith((".lock", ".tmp")))
