"""What sbatch is given, and what is made of its answer."""

from dataclasses import asdict
from pathlib import Path

import pytest

from kdhpc.cluster import commands
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterBusyError, ClusterError, ConfigError, UsageError
from kdhpc.searching.submission import submission_script, submit_workers


@pytest.fixture
def slurm(fake_slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cluster named here, whose queue is empty."""
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(commands, "_BETWEEN_TRIES_S", 0.0)
    fake_slurm.answer("scontrol", "echo 'ClusterName = here'; echo 'MaxArraySize = 1001'")
    fake_slurm.queue()
    return fake_slurm


def submitted(**options: object) -> str:
    config = StudyPaths.of("tiny").config("first")
    return submit_workers("tiny", config, ClusterConfig(executor="slurm", **options), 2)


def test_worker_starts_in_the_container_that_the_config_names(slurm, tmp_path: Path) -> None:
    slurm.answer("sbatch", f"cp ${{@: -1}} {tmp_path}/script; echo Submitted batch job 9")
    inside = "apptainer exec --nv /shared/kdhpc.sif /opt/kdhpc/bin/python -P"
    submitted(python=inside)
    shown = submission_script("tiny", "first", ClusterConfig(executor="slurm", python=inside), 2)
    for script in (shown, (tmp_path / "script").read_text()):
        assert f" {inside} -u -m submitit.core._submit " in script


_KNOWN = f'echo "9_0|9|PENDING||n|None|$(ls {"{jobs}"}/.submission_file_*.sh)"'


@pytest.mark.parametrize(
    ("answer", "in_queue", "job"),
    [
        ("echo Submitted batch job 9", False, "9@here"),
        ("echo Submitted batch job 9 on cluster gpu", False, "9@gpu"),
        ("echo 9", False, "9@here"),
        ("echo '9;gpu'", False, "9@gpu"),
        ("echo '*** Site news: job 3 of 7 ***'; echo; echo ' Submitted batch job 9'; echo bye", False, "9@here"),
        # Not certain by its words: the queue knows the script.
        ("echo '*** Site news ***'; echo 8", True, "9@here"),
        ("echo '[site] Submitted batch job 8'", True, "9@here"),
        ("echo Submitted batch job 8; echo Submitted batch job 7", True, "9@here"),
        ("true", True, "9@here"),
        ("printf '\\377\\376'", True, "9@here"),
        ("echo Submitted batch job 9; echo 'accounting hook failed' >&2; exit 1", True, "9@here"),
        (
            "echo 'sbatch: error: Batch job submission failed: Socket timed out' >&2; exit 1",
            True,
            "9@here",
        ),
    ],
)
def test_submission_that_slurm_has_taken_is_known_by_the_answer_or_by_the_queue(
    slurm, answer: str, in_queue: bool, job: str
) -> None:
    slurm.answer("sbatch", answer)
    if in_queue:
        slurm.answer("squeue", _KNOWN.format(jobs=StudyPaths.of("tiny").launch_jobs("first")))
    assert submitted() == job
    assert bool(slurm.calls("squeue")) == in_queue
    pickles = {path.name for path in StudyPaths.of("tiny").launch_jobs("first").glob("*.pkl")}
    assert pickles == {"9_0_submitted.pkl", "9_1_submitted.pkl"}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (
            "echo 'Welcome to the cluster'; echo 8",
            ClusterError,
            r"answer of sbatch \(\S+/sbatch\) is not understood: Wel",
        ),
        ("echo 'sbatch: error: invalid partition' >&2; exit 1", ClusterError, r"did not take the jobs: .* partition$"),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", ClusterBusyError, r"did not take the jobs: Unable"),
        ("exit 3", ClusterError, r"sbatch did not take the jobs: it says nothing$"),
    ],
)
def test_submission_that_is_not_in_the_queue_is_one_line(slurm, answer: str, kind: type, said: str) -> None:
    slurm.answer("sbatch", answer)
    with pytest.raises(ClusterError, match=said) as raised:
        submitted()
    assert type(raised.value) is kind
    assert "\n" not in str(raised.value)


def test_submission_and_queue_that_are_not_understood_say_what_is_not_known(slurm) -> None:
    slurm.answer("sbatch", "echo hello")
    slurm.answer("squeue", "echo nothing of the kind", decorated=True)
    with pytest.raises(ClusterError, match=r"sbatch .*hello.*whether the jobs are in Slurm's queue is not known: "):
        submitted()


def test_submission_goes_to_the_cluster_of_the_options_or_of_the_environment(
    slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.answer("sbatch", 'env | grep -q ^SLURM_CLUSTERS && exit 1; cp "$1" $0.script; echo Submitted batch job 9')
    given = slurm.folder / "sbatch.script"
    assert submitted() == "9@here"
    assert "--clusters" not in given.read_text()
    assert submitted(sbatch=("clusters=gpu",)) == "9@gpu"
    assert "#SBATCH --clusters=gpu\n" in given.read_text()
    monkeypatch.setenv("SLURM_CLUSTERS", "big")
    assert submitted() == "9@big"
    assert "#SBATCH --clusters=big\n" in given.read_text()
    assert slurm.calls("scontrol") == ["show config", "-M gpu show config", "-M big show config"]
    assert submitted(sbatch=("cluster=gpu",)) == "9@gpu"
    # Named by its own name it is asked without a database of clusters.
    monkeypatch.setenv("SLURM_CLUSTERS", "here")
    assert submitted() == "9@here"
    assert "--clusters" not in given.read_text()
    for several in ("gpu,big", "all", ""):
        monkeypatch.setenv("SLURM_CLUSTERS", several)
        if several:
            with pytest.raises(UsageError, match=rf"SLURM_CLUSTERS={several} is not allowed: name one cluster"):
                submitted()
        else:
            assert submitted() == "9@here"


def _script(**options: object) -> list[str]:
    return submission_script("tiny", "first", ClusterConfig(**{"executor": "slurm", **options}), 2).splitlines()


def test_memory_is_asked_for_by_job_by_core_or_not_at_all(fake_slurm) -> None:
    def memory(**options: object) -> list[str]:
        return [line.removeprefix("#SBATCH ") for line in _script(**options) if "--mem" in line]

    assert memory() == ["--mem=16384M"]
    assert memory(**asdict(compose_search(["study=quickstart", "cluster=slurm", "cluster.mem_gb=null"]).cluster)) == []
    assert memory(mem_gb=None, mem_per_cpu_gb=1.5) == ["--mem-per-cpu=1536M"]
    assert memory(mem_gb=None, sbatch=("mem-per-cpu=2G",)) == ["--mem-per-cpu=2G"]
    assert memory(sbatch=("mem=9G",)) == ["--mem=9G"]
    for both in ({"mem_per_cpu_gb": 2.0}, {"sbatch": ("mem-per-cpu=2G",)}, {"sbatch": ("mem-per-gpu=2G",)}):
        with pytest.raises(ConfigError, match=r"mem_gb=16\.0 is not allowed beside .*: add cluster\.mem_gb=null"):
            memory(**both)
    with pytest.raises(ConfigError, match=r"cluster\.mem_per_cpu_gb=0\.0 is not allowed"):
        memory(mem_gb=None, mem_per_cpu_gb=0.0)


@pytest.mark.parametrize("option", ["array=0-9", "signal=USR1@9", "wait", "test-only", "wrap=x"])
def test_options_that_would_break_the_launch_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="kdhpc's own to set"):
        ClusterConfig(sbatch=(option,))


def test_script_says_which_job_its_variables_belong_to(fake_slurm) -> None:
    lines = _script(setup=("module load cuda",))
    assert lines.index("export KDHPC_SLURM_JOB=$SLURM_JOB_ID") < lines.index("module load cuda")
