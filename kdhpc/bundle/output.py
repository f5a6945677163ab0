"""The folder of a bundle: it appears whole, and replaces nothing but an earlier bundle that nobody has changed."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

from kdhpc.errors import ConfigError, StorageError
from kdhpc.files.json_text import parse_json
from kdhpc.files.reading import read_whole
from kdhpc.files.removing import remove, remove_tree
from kdhpc.files.storage_errors import storage_error
from kdhpc.files.writing import make_folder, move

PROVENANCE = "provenance.json"
"""It lists all other files of a bundle with their digests, and is written last."""
FORMAT, VERSION = "kdhpc-bundle", 1


@contextlib.contextmanager
def bundle_folder(out: Path) -> Iterator[Path]:
    """A folder to write a bundle into. If the block succeeds, its files are moved to ``out``; if not, it is removed.

    Raises:
        ConfigError: ``out`` holds something else than an unchanged bundle.
        StorageError: the file system refuses.
    """
    earlier = earlier_files(out)
    # Inside a folder that exists already: its parent may be closed to this user, or another disk.
    place = out if out.is_dir() else out.parent
    parents = [folder for folder in out.parents if not folder.exists()]
    temporary = place / f".{out.name or 'bundle'}.{secrets.token_hex(8)}.partial"
    try:
        try:
            make_folder(temporary)
        except OSError as exc:
            raise storage_error(exc, out, "made") from exc
        yield temporary
        if place is out:
            _replace(out, temporary, earlier)
        else:
            move(temporary, out)
    finally:
        remove_tree(temporary)
        for folder in parents:  # Made here, and empty unless the bundle is in them.
            with contextlib.suppress(OSError):
                folder.rmdir()


def earlier_files(out: Path) -> tuple[str, ...]:
    """The files of the bundle that a new one in this folder replaces; none if the folder is empty or not there.

    Raises:
        ConfigError: the folder holds something else, or files of the bundle were changed.
        StorageError: the file system refuses.
    """
    if not out.is_dir():
        return ()
    try:
        found = files_below(out)
        if not found:
            return ()
        listed = _listed(out)
        if not listed:
            raise ConfigError(f"--out {out} is not empty, and it is no bundle: name a new folder, or move it away")
        changed = [name for name in found if name != PROVENANCE and listed.get(name) != digest_of(out / name)]
    except OSError as exc:
        raise storage_error(exc, out, "read") from exc
    if changed:
        raise ConfigError(
            f"--out {out} has a bundle whose {changed[0]} is not as it was exported: name a new folder, or move this "
            "one away"
        )
    return found


def files_below(folder: Path) -> tuple[str, ...]:
    """All files in a folder and below it, by their paths from there, in order."""
    walked = os.walk(folder, onerror=_raise)
    return tuple(sorted((Path(at) / name).relative_to(folder).as_posix() for at, _, names in walked for name in names))


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(read_whole(path)).hexdigest()


def _listed(folder: Path) -> Mapping[str, str]:
    """What the bundle in a folder says of its files; empty: it is no bundle."""
    try:
        document = parse_json(read_whole(folder / PROVENANCE))
    except (FileNotFoundError, ValueError):
        return {}
    files = document.get("files") if isinstance(document, dict) and document.get("format") == FORMAT else None
    return files if isinstance(files, dict) else {}


def _replace(out: Path, new: Path, earlier: tuple[str, ...]) -> None:
    """Move the new files to where the earlier ones are; the provenance, without which there is no bundle, is last."""
    for name in sorted(earlier, key=lambda name: name != PROVENANCE):
        if not remove(out / name):
            raise StorageError(f"{out / name} cannot be removed: the new bundle is not written")
    for folder in {out / name for name in earlier for name in map(str, list(Path(name).parents)[:-1])}:
        with contextlib.suppress(OSError):
            folder.rmdir()
    for path in sorted(new.iterdir(), key=lambda path: path.name == PROVENANCE):
        move(path, out / path.name)


def _raise(exc: OSError) -> None:
    raise exc
