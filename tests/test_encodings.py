"""Files and the words of other programs are UTF-8 in every locale: each call that reads or writes text says so."""

import ast
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SOURCES = sorted((_ROOT / "kdhpc").rglob("*.py"))
_TEXT = {"read_text", "write_text"}
_OPENING = {"open", "fdopen"}
_PROGRAMS = {"run", "Popen", "check_output"}
# Named `open` as well, and not for files of text.
_OTHERS = {"tarfile", "os", "Image", "SharedStudy", "PackedDataset", "cls", "self", "study"}


def _unnamed(tree: ast.AST) -> Iterator[int]:
    """Lines of the calls that leave the encoding to the locale."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        owned = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
        words = {word.arg: word.value for word in call.keywords}
        if "encoding" in words:
            continue
        modes = [arg.value for arg in (*call.args, words.get("mode")) if isinstance(arg, ast.Constant)]
        is_bytes = any(isinstance(mode, str) and "b" in mode for mode in modes)
        opens = name in _OPENING and not is_bytes and (name == "fdopen" or owned not in _OTHERS)
        if name in _TEXT or opens or (name in _PROGRAMS and ("text" in words or "universal_newlines" in words)):
            yield call.lineno


def test_a_call_without_an_encoding_is_seen() -> None:
    for line in ("path.read_text()", "open(path)", "os.fdopen(1, 'w')", "subprocess.run([], text=True)", "f.open('a')"):
        assert list(_unnamed(ast.parse(line))) == [1], line
    for line in ("path.read_bytes()", "open(path, 'rb')", "path.open(encoding='utf-8')", "os.open(path, 1)"):
        assert list(_unnamed(ast.parse(line))) == [], line


def test_every_text_has_an_encoding() -> None:
    assert len(_SOURCES) > 100
    found = [
        f"{path.relative_to(_ROOT)}:{line}"
        for path in _SOURCES
        for line in _unnamed(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, found
