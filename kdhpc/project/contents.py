"""The files of a project: what `kdhpc init` writes, as text."""

import os
import shlex
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kdhpc.config.folders import shipped
from kdhpc.printing import one_line
from kdhpc.project.site_choice import SiteChoice

STUDY = "mine"
"""Name of the example of a study."""
_SCRIPTS = ("search_array.sh", "worker_array.sh", "reproduce.sh")
_STUDY = """\
# @package _global_
# An example of a study, to be changed: `kdhpc search --study {name}`, or on a cluster `kdhpc launch --study {name}`.
# As it is, it is the quickstart: two small networks on a part of Fashion-MNIST, in minutes on a CPU.
# `kdhpc search --study {name} --dry-run` shows every key; what is not set here is as in the shipped configs.
defaults:
  - override /dataset: fashion_mnist    # one that `kdhpc data list` shows
  - override /network: resnet8          # resnet20, wrn28_2, abn_resnet18, torchvision/NAME, timm/NAME, ...
  - override /training: short           # a recipe: short, paper, paper_cifar, adamw_cosine, or a file of yours
study:
  num_nodes: 2                          # networks that teach each other
  trials: 16                            # graphs to try: the budget
dataset:
  subset: 2000                          # use so many training images; leave the line out for all of them
"""


def files(folder: Path, choice: SiteChoice) -> Iterator[tuple[Path, str]]:
    """Path, relative to the project's folder, and content of each file.

    Args:
        folder: The project's, absolute.
        choice: What jobs ask for.
    """
    yield Path("configs", "cluster", "slurm.yaml"), _cluster(choice)
    yield Path("configs", "study", f"{STUDY}.yaml"), _STUDY.format(name=STUDY)
    for name in _SCRIPTS:
        script = (shipped("slurm") / name).read_text(encoding="utf-8")
        yield Path("slurm", name), _adapted(script, choice, is_worker=name.startswith("worker"))
    yield Path("slurm", "site.sh"), _site(folder)


def _cluster(choice: SiteChoice) -> str:
    lines = [
        "# What the jobs of workers ask for: `kdhpc launch` takes this file by itself. A key may be overridden, as in",
        f"# `kdhpc launch --study {STUDY} cluster.time_min=600`; docs/cluster.md names more of them.",
        *(f"# {one_line(line)}" for line in site_words(choice)),
        "executor: slurm",
        "workers: 4                  # that run at once",
        f"partition: {_yaml(choice.partition):<16} # null: the default one",
        f"account: {_yaml(choice.account):<18} # null: your default one",
        f"gpus_per_worker: {choice.gpus:<10} # 1, or 0 for none",
        f"cpus_per_worker: {choice.cores}",
        f"mem_gb: {_yaml(choice.mem_gb):<19} # null: sbatch is not given --mem",
        "mem_per_cpu_gb: null        # memory for each core, where the site wants it so; then mem_gb is null",
        f"time_min: {choice.time_min:<17} # at the limit a job is requeued, and goes on from its checkpoint",
        f"signal_delay_s: {choice.signal_delay_s}",
        "sbatch: []                  # further options, such as [exclude=node7, nice=100]",
        "setup: []                   # shell lines that a worker's job runs first, such as [module load cuda]",
    ]
    return "\n".join([*lines, ""])


def site_words(choice: SiteChoice) -> Iterator[str]:
    """What is known of the site, in lines."""
    if choice.problem is not None:
        yield f"Nothing is known of your site: {choice.problem}."
        yield "Fill in partition and account: `sinfo` and `sacctmgr show associations user=$USER` list them."
        return
    for each in choice.partitions:
        gres = each.gres or "no GPU"
        about = f"{each.nodes} nodes of {each.cores} cores, {each.memory_mb} MB, {gres}; time limit {each.time_limit}"
        notes = f"{', the default' if each.is_default else ''}{'' if each.is_up else ', takes no jobs'}"
        yield f"partition {each.name}: {about}{notes}"
    yield f"accounts: {', '.join(choice.accounts) or 'Slurm names none'}"


def _yaml(value: object) -> str:
    """A name as YAML; quoted, as one like `1e3` or `no` would be something else."""
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _adapted(script: str, choice: SiteChoice, *, is_worker: bool) -> str:
    """A shipped script with this site's options, which go before its own."""
    partition = choice.partition if is_worker else choice.launch_partition
    options = [
        f"#SBATCH --{name}={value}" for name, value in (("partition", partition), ("account", choice.account)) if value
    ]
    lines = script.splitlines()
    if is_worker and not choice.gpus:
        lines = [line for line in lines if not line.startswith("#SBATCH --gres=gpu")]
    if is_worker:
        lines = [_resized(line, choice) for line in lines]
    at = next(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
    return "\n".join([*lines[:at], *options, *lines[at:], ""])


def _resized(line: str, choice: SiteChoice) -> str:
    hours, minutes = divmod(choice.time_min, 60)
    sizes = {
        "#SBATCH --cpus-per-task=": str(choice.cores),
        "#SBATCH --mem=": None if choice.mem_gb is None else f"{choice.mem_gb}G",
        "#SBATCH --time=": f"{hours:02}:{minutes:02}:00",
        "#SBATCH --signal=B:USR2@": str(choice.signal_delay_s),
    }
    for option, size in sizes.items():
        if line.startswith(option):
            return f"{option}{size}" if size is not None else f"#{line}"
    return line


def _site(folder: Path) -> str:
    """The example of a site's settings, with the environment that kdhpc runs in now."""
    example = (shipped("slurm") / "site.sh.example").read_text(encoding="utf-8")
    text = example.replace("Copy to slurm/site.sh; the", "The")
    if modules := os.environ.get("LOADEDMODULES"):
        named = " ".join(shlex.quote(module) for module in modules.split(":") if module)
        text += f"\n# Loaded when this was written; take what kdhpc's Python was made with:\n# module load {named}\n"
    home = _home()
    if home is not None and home != folder / ".venv":
        text += (
            f"\n# Where kdhpc is installed: the scripts run bin/kdhpc in it.\nVIRTUAL_ENV={shlex.quote(str(home))}\n"
        )
    return text


def _home() -> Path | None:
    """The folder with ``bin/kdhpc`` of this Python; None: there is none."""
    places = (Path(sys.prefix), Path(sysconfig.get_path("scripts")).parent, Path(sys.argv[0]).absolute().parents[1])
    return next((place for place in places if (place / "bin" / "kdhpc").is_file()), None)
