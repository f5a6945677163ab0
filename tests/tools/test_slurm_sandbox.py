"""The Slurm sandbox, on this machine's real Slurm; everything else in the project that needs Slurm builds on it."""

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "slurm_sandbox"
NODES = ["node1", "node2", "node3", "node4"]
REQUEUE_DELAY_S = 5


@dataclass(frozen=True, kw_only=True)
class Shell:
    """Runs the tool, and Slurm's commands as a user's shell would."""

    folder: Path
    within: tuple[str, ...] = ()
    """What the tool and the shell are started by."""

    def tool(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the tool on this folder."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH_"))}
        environment["KDHPC_SLURM_SANDBOX"] = str(self.folder)
        return subprocess.run([*self.within, TOOL, *arguments], env=environment, capture_output=True, text=True)

    def run(self, command: str) -> str:
        """Run a line of bash after the lines that `env` prints."""
        exports = self.tool("env")
        assert exports.returncode == 0, exports.stderr
        line = ["bash", "-c", f"{exports.stdout}\n{command}"]
        done = subprocess.run([*self.within, *line], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> tuple[int, dict[str, object]]:
        """Exit code and JSON of `status`."""
        done = self.tool("status", "--format", "json")
        return done.returncode, json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        """The daemons' process ids."""
        pids = self.status()[1]["daemons"]
        assert isinstance(pids, dict)
        return pids


def started(folder: Path, *arguments: str, within: tuple[str, ...] = ()) -> Shell:
    """A sandbox that is up; where this machine cannot have one, a skip, or a failure under KDHPC_REQUIRE_SLURM=1."""
    shell = Shell(folder=folder, within=within)
    up = shell.tool("up", *arguments)
    if up.returncode == 3 and os.environ.get("KDHPC_REQUIRE_SLURM") != "1":
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    return shell


def eventually(check: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = started(tmp_path_factory.mktemp("sandbox"), "--requeue-delay", str(REQUEUE_DELAY_S))
    yield shell
    assert shell.tool("down").returncode == 0


def test_up_again_leaves_all_daemons_alone(shell: Shell) -> None:
    before = shell.pids()
    again = shell.tool("up")
    assert again.returncode == 0
    assert "idle node[1-4]" in again.stdout
    assert shell.pids() == before


def test_status_of_a_running_sandbox_names_live_processes_and_nodes(shell: Shell) -> None:
    code, status = shell.status()
    assert code == 0
    assert status["state"] == "up"
    assert status["nodes"] == dict.fromkeys(NODES, "idle")
    assert set(shell.pids()) == {"munged", "slurmctld", *NODES}
    assert all(is_alive(pid) for pid in shell.pids().values())


def test_env_prints_nothing_but_exports(shell: Shell) -> None:
    lines = shell.tool("env").stdout.splitlines()
    assert all(line.startswith("export ") for line in lines)
    assert shlex.split(lines[0])[1].startswith("SLURM_CONF=")


def test_array_of_four_runs_at_once_with_one_gpu_each(shell: Shell, tmp_path: Path) -> None:
    # Every task waits for all four: run one after the other, they would never end.
    script = f'echo "$SLURMD_NODENAME $CUDA_VISIBLE_DEVICES" > {tmp_path}/$SLURM_ARRAY_TASK_ID.part\n'
    script += f"cd {tmp_path} && mv $SLURM_ARRAY_TASK_ID.part $SLURM_ARRAY_TASK_ID\n"
    script += "until [ -e 0 -a -e 1 -a -e 2 -a -e 3 ]; do sleep 0.1; done"
    shell.run(f"timeout 120 sbatch --wait --array=0-3 --gres=gpu:1 --output=/dev/null --wrap {shlex.quote(script)}")
    assert sorted((tmp_path / str(task)).read_text() for task in range(4)) == [f"{node} 0\n" for node in NODES]


def test_requeued_job_starts_again_after_the_delay_asked_for(shell: Shell, tmp_path: Path) -> None:
    script = f"echo ${{SLURM_RESTART_COUNT:-0}} >> {tmp_path}/starts; exec sleep 60"
    job = shell.run(f"sbatch --parsable --output=/dev/null --wrap {shlex.quote(script)}").strip()
    assert eventually((tmp_path / "starts").exists)
    begin = time.monotonic()
    shell.run(f"scontrol requeue {job}")
    assert eventually(lambda: (tmp_path / "starts").read_text() == "0\n1\n")
    assert time.monotonic() - begin >= REQUEUE_DELAY_S
    shell.run(f"scancel {job}")


def test_urgent_job_takes_the_gpu_of_a_main_job_which_is_requeued(shell: Shell, tmp_path: Path) -> None:
    script = f"echo $SLURM_ARRAY_TASK_ID >> {tmp_path}/starts; exec sleep 60"
    array = shell.run(
        f"sbatch --parsable --array=0-3 --gres=gpu:1 --output=/dev/null --wrap {shlex.quote(script)}"
    ).strip()
    assert eventually(lambda: shell.run(f"squeue --noheader --states=RUNNING --job={array}").count("\n") == 4)
    shell.run("timeout 120 srun --partition=urgent --gres=gpu:1 true")
    assert eventually(lambda: (tmp_path / "starts").read_text().count("\n") == 5)
    assert sorted(set((tmp_path / "starts").read_text().split())) == ["0", "1", "2", "3"]
    shell.run(f"scancel {array}")


def test_killed_node_is_told_as_broken_and_up_repairs_it(shell: Shell) -> None:
    before = shell.pids()
    os.kill(before["node2"], 9)
    assert eventually(lambda: not is_alive(before["node2"]))
    code, status = shell.status()
    assert (code, status["state"]) == (1, "broken")
    assert shell.tool("up").returncode == 0
    after = shell.pids()
    assert after.pop("node2") != before.pop("node2")
    assert after == before


def test_down_ends_stubborn_jobs_and_their_stray_children(tmp_path: Path) -> None:
    other = started(tmp_path / "a folder whose name is long and odd: 100%, " / ("x" * 60))
    script = f"trap '' TERM; setsid sleep 300 & echo $! > {tmp_path}/stray; echo $$ > {tmp_path}/job; sleep 300"
    other.run(f"sbatch --output=/dev/null --wrap {shlex.quote(script)}")
    assert eventually(lambda: (tmp_path / "job").exists() and bool((tmp_path / "job").read_text()))
    pids = [*other.pids().values(), *(int((tmp_path / name).read_text()) for name in ("stray", "job"))]
    assert all(is_alive(pid) for pid in pids)
    assert other.tool("down").returncode == 0
    assert [pid for pid in pids if is_alive(pid)] == []
    assert other.status()[0] == 1
    assert other.tool("down").returncode == 0
    assert other.tool("env").returncode == 1


def test_accounting_remembers_jobs(tmp_path: Path) -> None:
    other = started(tmp_path, "--accounting")
    try:
        job = other.run("sbatch --parsable --wait --gres=gpu:1 --output=/dev/null --wrap 'exit 0'").strip()
        columns = "--noheader --parsable2 --allocations --format=State,AllocTRES"
        assert eventually(lambda: "COMPLETED" in other.run(f"sacct --jobs={job} {columns}"))
        assert "gres/gpu=1" in other.run(f"sacct --jobs={job} {columns}")
    finally:
        assert other.tool("down").returncode == 0
    assert set(other.pids().values()) == {None}


def test_host_that_debian_calls_127_0_1_1_runs_jobs_and_their_steps(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n")
    mount = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    other = started(tmp_path / "sandbox", within=("unshare", "--mount", "sh", "-c", mount, "sh"))
    try:
        assert other.run("getent hosts $(hostname)").startswith("127.0.1.1 ")
        script = shlex.quote("srun echo step")
        other.run(f"timeout 100 sbatch --wait --output={tmp_path}/out --wrap {script}")
        assert (tmp_path / "out").read_text() == "step\n"
    finally:
        assert other.tool("down").returncode == 0


# The tool does not wait for daemons that are to outlive it, which Python tells the process that this test runs in.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_port_that_someone_takes_first_moves_the_sandbox_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(tmp_path).tool("down")  # A machine that cannot have a sandbox skips here.
    loader = SourceFileLoader("slurm_sandbox", str(TOOL))
    tool = ModuleType(loader.name)
    monkeypatch.setitem(sys.modules, loader.name, tool)  # Its dataclasses look for their module there.
    loader.exec_module(tool)
    with socket.create_server(("", 0)) as taken:
        answers = iter([taken.getsockname()[1]])
        find = tool.free_ports
        monkeypatch.setattr(tool, "free_ports", lambda num_ports: next(answers, None) or find(num_ports))
        sandbox = tool.Sandbox.at(tmp_path)
        try:
            tool.up(sandbox, accounting=False, requeue_delay_s=REQUEUE_DELAY_S)
            assert Shell(folder=tmp_path).status()[1]["state"] == "up"
            assert f"SlurmctldPort={taken.getsockname()[1]}" not in sandbox.conf.read_text()
        finally:
            tool.down(sandbox)


def test_machine_without_packages_and_apt_gets_one_line_and_exit_3(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "KDHPC_SLURM_SANDBOX": str(tmp_path / "sandbox")}
    done = subprocess.run([sys.executable, TOOL, "up"], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("slurm_sandbox: error: ")
    assert done.stderr.count("\n") == 1


def test_requeue_delay_too_short_for_credentials_is_a_usage_error(tmp_path: Path) -> None:
    done = Shell(folder=tmp_path).tool("up", "--requeue-delay", "1")
    assert done.returncode == 2
    assert "at least 5" in done.stderr
