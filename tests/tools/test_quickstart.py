"""The steps of tools/quickstart, with commands that only write down how they are called."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search, compose_train

_QUICKSTART = Path(__file__).parents[2] / "tools" / "quickstart"
_KDHPC = """\
#!/bin/bash
echo "$*" >> calls
if [ "$1 $2" = "data check" ]; then cat problem >&2; [ ! -s problem ] || exit 1; fi
if [ "$1" = export-best ]; then
    mkdir -p runs/quickstart/export
    printf 'rank,trial,value\\n1,7,80.5\\n2,3,80.0\\n' > runs/quickstart/export/quickstart-best.csv
fi
"""


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(_QUICKSTART, tmp_path / "tools")
    _program(tmp_path / "tools" / "setup", "#!/bin/bash\n")
    _program(tmp_path / "tools" / "fetch_fashion_mnist", "#!/bin/bash\necho source\n")
    _program(tmp_path / ".venv" / "bin" / "kdhpc", _KDHPC)
    _program(tmp_path / ".venv" / "bin" / "python", '#!/bin/bash\ncat > /dev/null\necho "python $*" >> calls\n')
    return tmp_path


def _run(checkout: Path, problem: str) -> "subprocess.CompletedProcess[str]":
    (checkout / "problem").write_text(problem)
    return subprocess.run([checkout / "tools" / "quickstart"], capture_output=True, text=True, check=False)


def _calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def test_quickstart_with_whole_data_leaves_them(checkout: Path) -> None:
    assert _run(checkout, "").returncode == 0
    assert [call.split()[0] for call in _calls(checkout)] == [
        "data",
        "db",
        "db",
        "search",
        "status",
        "export-best",
        "db",
        "train",
        "train",
        "train",
        "results",
        "python",
    ]
    assert "db stop" in _calls(checkout)


def test_quickstart_trains_the_best_graph_and_both_baselines_alike(checkout: Path) -> None:
    assert _run(checkout, "").returncode == 0
    trained = [call.split() for call in _calls(checkout) if call.startswith("train ")]
    own = [{word for word in words if word not in trained[0]} for words in trained[1:]]
    assert trained[0][:3] == ["train", "--graph", "runs/quickstart/export/quickstart-trial7.json"]
    assert "run.name=quickstart-trial7" in trained[0]
    assert own == [{"independent", "run.name=quickstart-independent"}, {"dml", "run.name=quickstart-dml"}]
    assert _calls(checkout)[-1].endswith("tools.baselines quickstart-trial7 quickstart-independent quickstart-dml")


def test_quickstart_compares_what_has_not_diverged(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "kdhpc", f"{_KDHPC}[ $1 != train ]\n")
    assert _run(checkout, "").returncode == 0
    assert "tools.baselines" in _calls(checkout)[-1]


def test_quickstart_that_is_stopped_while_it_trains_ends(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "kdhpc", f"{_KDHPC}[ $1 != train ] || exit 130\n")
    assert _run(checkout, "").returncode == 130
    assert _calls(checkout)[-1].startswith("train ")


def test_quickstart_trains_as_its_study_does() -> None:
    """The comparison is fair only while the script says what the study's config says."""
    search = compose_search(["study=quickstart"])
    words = [
        "dataset=fashion_mnist",
        "dataset.subset=2000",
        "network=resnet8",
        "training=short",
        "training.evaluate=last",
    ]
    assert all(word in _QUICKSTART.read_text() for word in [*words, f"--nodes {search.study.num_nodes}"])
    train = compose_train([*words, "run.graph=independent"])
    assert (train.dataset, train.network, train.objective, train.training) == (
        search.dataset,
        search.network,
        search.objective,
        dataclasses.replace(search.training, evaluate="last"),
    )


def test_quickstart_leaves_a_database_running_that_ran_before(checkout: Path) -> None:
    _program(checkout / ".venv" / "bin" / "kdhpc", f"{_KDHPC}echo 'running  127.0.0.1:5432'\n")
    assert _run(checkout, "").returncode == 0
    assert "db stop" not in _calls(checkout)


def test_quickstart_with_damaged_data_packs_them_again_and_says_so(checkout: Path) -> None:
    (checkout / "data" / "fashion_mnist").mkdir(parents=True)
    done = _run(checkout, "kdhpc: train/images.npy has changed\n")
    assert done.returncode == 0, done.stderr
    assert _calls(checkout)[:2] == ["data check fashion_mnist", "data prepare fashion_mnist source --force"]
    assert "packed again: kdhpc: train/images.npy has changed" in done.stderr


def test_quickstart_without_data_packs_them(checkout: Path) -> None:
    done = _run(checkout, "kdhpc: not prepared\n")
    assert done.returncode == 0, done.stderr
    assert "data prepare fashion_mnist source --force" in _calls(checkout)
    assert "packed again" not in done.stderr


def test_quickstart_without_a_source_ends_before_it_packs_something_else(checkout: Path) -> None:
    _program(checkout / "tools" / "fetch_fashion_mnist", "#!/bin/bash\nexit 1\n")
    assert _run(checkout, "kdhpc: not prepared\n").returncode == 1
    assert _calls(checkout) == ["data check fashion_mnist"]
