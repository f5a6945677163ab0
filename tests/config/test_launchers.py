"""What jobs of final trainings may be asked for."""

from pathlib import Path

import pytest

from kdhpc.config.launchers import check_launcher
from kdhpc.errors import ConfigError


@pytest.mark.parametrize(
    ("launcher", "word", "message"),
    [
        ("submitit_slurm", "hydra.launcher.partitio=gpu", "did you mean 'partition'"),
        ("submitit_slurm", "hydra.launcher.reservation=mine", "additional_parameters.OPTION"),
        ("submitit_local", "hydra.launcher.partition=gpu", "unknown config key 'hydra.launcher.partition'"),
        ("submitit_local", "hydra.launcher.python=python3", "unknown config key 'hydra.launcher.python'"),
        ("submitit_slurm", "hydra.launcher.timeout_min=long", "'long' of type 'str'"),
        ("submitit_slurm", "hydra.launcher.nodes=null", "hydra.launcher.nodes=null is not allowed"),
        ("submitit_slurm", "hydra.launcher.mem_gb=[1]", "hydra.launcher.mem_gb=[1] is not allowed"),
        ("submitit_slurm", "hydra.launcher.mem_gb=1,2", "give one value"),
        ("submitit_slurm", "hydra.launcher.mem_gb.of=1", "unknown config key"),
        ("submitit_slurm", "hydra.launcher=basic", "hydra.launcher.KEY alone"),
        ("submitit_slurm", "hydra/launcher=basic", "hydra.launcher.KEY alone"),
        ("submitit_slurm", "hydra.sweep.dir=elsewhere", "hydra.launcher.KEY alone"),
        ("submitit_slurm", "hydra.launcher._target_=os.system", "unknown config key"),
        ("submitit_slurm", "hydra.launcher.", "cannot be read"),
    ],
)
def test_what_jobs_cannot_be_asked_for_is_refused_in_one_line(launcher: str, word: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_launcher([word], launcher, None)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "word",
    [
        "hydra.launcher.partition=gpu",
        "hydra.launcher.mem_gb=null",
        "hydra.launcher.exclude=node7",
        "hydra.launcher.wckey=mine",
        "hydra.launcher.python=python3",
        "hydra.launcher.setup=['module load cuda']",
        "hydra.launcher.additional_parameters.mail-type=END",
    ],
)
def test_what_slurm_can_be_asked_for_passes(word: str) -> None:
    check_launcher([word], "submitit_slurm", None)


def test_keys_of_an_own_launcher_count(tmp_path: Path) -> None:
    own = tmp_path / "hydra" / "launcher" / "kdhpc_slurm.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("slurm_hint: nomultithread\n")
    check_launcher(["hydra.launcher.slurm_hint=null"], "submitit_slurm", tmp_path)
    for content, message in (("a: [", "cannot be read"), ("- a\n", "is no mapping")):
        own.write_text(content)
        with pytest.raises(ConfigError, match=message):
            check_launcher(["hydra.launcher.slurm_hint=null"], "submitit_slurm", tmp_path)
