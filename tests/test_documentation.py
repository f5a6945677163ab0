"""The documentation is true: links lead somewhere, command lines parse, keys and files that are named exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

from kdhpc import __version__
from kdhpc.cli.main import build_parser
from kdhpc.config.compose import compose_search, compose_train
from kdhpc.config.document import defaults
from kdhpc.config.folders import config_names
from kdhpc.config.schema import SearchConfig, TrainConfig
from kdhpc.config.sweep import combinations
from kdhpc.reproduce.overrides import Overrides
from tests.plugins import forget_plugins

_ROOT = Path(__file__).parents[1]
_PAGES = sorted(path.relative_to(_ROOT).as_posix() for path in [*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
# What these say was true when it was written, and is not rewritten.
_HISTORY = ("CHANGELOG.md", "docs/log.md", "docs/decisions/", "docs/results/miniature/")
_OF_TODAY = [page for page in _PAGES if not page.startswith(_HISTORY)]
_GROUPS = {**defaults(SearchConfig), **defaults(TrainConfig)}
_KEY = re.compile(rf"({'|'.join(_GROUPS)})\.([a-z_]+)(=.*)?")
# Read like keys, and are Optuna's, or an example.
_NO_KEYS = ("study.optimize", "study.enqueue_trial", "training.x")
_FILE = re.compile(r"(?:kdhpc|tools|tests|slurm|configs|docs|bin|examples)/[\w./-]*\w/?")
# Written by users, or made by the commands beside them.
_OF_USERS = ("slurm/site.sh", "configs/dataset/NAME.yaml", "configs/study/mine.yaml")
_PACKED_BY_USERS = ("pets", "birds", "clothes")
_SCRIPTS = {
    "slurm/search_array.sh": "launch",
    "slurm/worker_array.sh": "worker",
    "slurm/reproduce.sh": "reproduce",
}
_WIDEST = 100


def _text(page: str) -> str:
    return (_ROOT / page).read_text()


def _prose(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", _text(page), flags=re.DOTALL | re.MULTILINE)


def _spans(page: str) -> list[str]:
    """Inline code."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", _prose(page))]


def _anchors(page: str) -> set[str]:
    """Of all headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _shell_lines(page: str) -> list[str]:
    blocks = re.findall(r"^ *```(?:bash|sh)\n(.*?)^ *```", _text(page), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]


def _commands(page: str) -> list[list[str]]:
    """The words after ``kdhpc`` of every command line, those of the batch scripts included."""
    found = []
    for line in _shell_lines(page):
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "||", "|", ";", "&"):
                words.append(word)
                continue
            for index, part in enumerate(words):
                if Path(part).name == "kdhpc" and (index == 0 or words[0] == "srun"):
                    found.append(words[index + 1 :])
                if part in _SCRIPTS and words[0] == "sbatch":
                    found.append([_SCRIPTS[part], *words[index + 1 :]])
            words = []
    return found


def _overrides(words: list[str]) -> tuple[str, list[str]]:
    """The command, and its config overrides, once argparse has taken the rest."""
    args, rest = build_parser().parse_known_args(words)
    assert all(re.match(r"[^-].*=", word) for word in rest), f"kdhpc {shlex.join(words)}: what is {rest}?"
    assert not rest or hasattr(args, "overrides"), f"kdhpc {shlex.join(words)} takes no {rest}"
    return args.command, [*getattr(args, "overrides", []), *rest]


def _compose(command: str, words: list[str], overrides: list[str]) -> None:
    for override in overrides:
        value = override.partition("=")[2]
        if value.endswith(".safetensors"):
            Path(value).parent.mkdir(parents=True, exist_ok=True)
            Path(value).touch()
    if command == "reproduce":
        given = Overrides.of(overrides)
        _compose("search", words, list(given.of_searches))
        _compose("train", words, ["dataset=fashion_mnist", "network=resnet8", *given.of_trainings])
    elif command == "train":
        launcher = [word.split("=")[0] for word in overrides if word.startswith("hydra.")]
        assert all(key.split(".")[-1] in SlurmQueueConf.__dataclass_fields__ for key in launcher), launcher
        here = [word for word in overrides if not word.startswith("hydra.")]
        compose_train(["run.graph=independent", *combinations(here)[0]])
    else:
        named = words[words.index("--study") + 1] if "--study" in words else ""
        study = named if named in config_names("study") else "quickstart"
        compose_search(
            overrides if any(word.startswith("study=") for word in overrides) else [f"study={study}", *overrides]
        )


@pytest.mark.parametrize("page", _PAGES)
def test_every_link_leads_to_a_file_and_its_heading(page: str) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (_ROOT / page).parent / path if path else _ROOT / page
        if not target.exists():
            dead.append(link)
        elif anchor and anchor not in _anchors(target.resolve().relative_to(_ROOT).as_posix()):
            dead.append(f"{link}: no such heading")
    assert dead == []


@pytest.mark.parametrize("page", _OF_TODAY)
def test_every_command_parses_and_its_config_composes(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    forget_plugins(monkeypatch)
    monkeypatch.syspath_prepend(str(_ROOT / "examples"))
    for name in _PACKED_BY_USERS:
        (tmp_path / "data" / name).mkdir(parents=True)
        manifest = {"image_shape": [256, 256, 3], "train": 100, "classes": ["cat", "dog"]}
        (tmp_path / "data" / name / "manifest.json").write_text(json.dumps(manifest))
    for words in _commands(page):
        command, overrides = _overrides(words)
        if overrides:
            _compose(command, words, overrides)


@pytest.mark.parametrize("page", _OF_TODAY)
def test_every_config_key_that_is_named_exists(page: str) -> None:
    named = [found for span in _spans(page) for word in span.split() if (found := _KEY.fullmatch(word.strip("'")))]
    unknown = [found[0] for found in named if found[2] not in _GROUPS[found[1]]]
    assert [key for key in unknown if key not in _NO_KEYS] == []


@pytest.mark.parametrize("page", _OF_TODAY)
def test_every_file_of_the_project_that_is_named_exists(page: str) -> None:
    code = [*_spans(page), *(word for line in _shell_lines(page) for word in shlex.split(line, comments=True))]
    named = {found[0] for text in code for word in text.split() if (found := _FILE.match(word))}
    missing = [name for name in sorted(named) if not (_ROOT / name).exists()]
    assert [name for name in missing if not name.startswith(_OF_USERS)] == []


@pytest.mark.parametrize("page", _OF_TODAY)
def test_no_line_is_wider_than_a_page(page: str) -> None:
    """Tables and the outputs of commands have no lines that could be wrapped."""
    wide = [line for line in _prose(page).splitlines() if len(line) > _WIDEST and not line.startswith("|")]
    assert wide == []


def test_checks_find_what_they_are_for() -> None:
    """A regular expression that matches nothing would pass every test above."""
    assert sum(len(_commands(page)) for page in _OF_TODAY) > 40
    assert ["launch", "--study", "dogs4", "--workers", "16"] in _commands("README.md")
    assert "on-a-gpu" in _anchors("docs/performance.md")
    assert any(_KEY.fullmatch(span) for span in _spans("docs/performance.md"))
    with pytest.raises(AssertionError, match="--no-such-option"):
        _overrides(["search", "--no-such-option"])


def test_citation_names_this_version_and_the_paper() -> None:
    cited = yaml.safe_load((_ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] == __version__
    assert cited["references"][0]["year"] == 2022
    assert cited["references"][0]["authors"][0]["family-names"] == "Okamoto"
