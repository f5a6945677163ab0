"""``kdhpc init`` at a site with a real Slurm: it takes what was written."""

import re
import subprocess
import sys
from pathlib import Path


def test_scripts_and_config_of_a_new_project_are_taken_by_slurm(slurm_sandbox: dict[str, str], tmp_path: Path) -> None:
    def run(*command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command, cwd=tmp_path, env=slurm_sandbox, capture_output=True, encoding="utf-8", check=True
        )

    kdhpc = (sys.executable, "-m", "kdhpc.cli.main")
    made = run(*kdhpc, "init")
    assert "partition main: 4 nodes of 8 cores, 32768 MB, gpu:1; time limit 1-00:00:00, the default" in made.stderr
    for script in ("search_array.sh", "worker_array.sh", "reproduce.sh"):
        assert "to start at" in run("sbatch", "--test-only", f"slurm/{script}", "--study", "mine").stderr
    (tmp_path / "dry.sh").write_text(run(*kdhpc, "launch", "--study", "mine", "--dry-run").stdout, encoding="utf-8")
    assert re.search("job [0-9]+ to start at", run("sbatch", "--test-only", "dry.sh").stderr, re.IGNORECASE)
