"""``kdhpc search``: find the best graph of a study, with workers on this machine."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.progress import Progress
from kdhpc.config.document import to_document
from kdhpc.config.paths import StudyPaths

if TYPE_CHECKING:
    from kdhpc.config.schema import SearchConfig

_DESCRIPTION = """\
Makes the study (or goes on with it), starts workers on this machine, shows progress, and returns when the budget is
done. Ctrl-C lets every worker checkpoint its trial; the same command goes on where it stopped, and so it does after a
crash. Without KDHPC_STORAGE it uses the embedded PostgreSQL of this folder, and starts it if it does not run.
"""
_EPILOG = """\
examples:
  kdhpc search --study quickstart                            the shipped study configs/study/quickstart.yaml
  kdhpc search --study quickstart --trials 40                raise the budget of a study that exists
  kdhpc search --study mine study=dogs4 network=resnet18     a study of your own, from a shipped one
  kdhpc search --study mine study=dogs2 training.epochs=100 'study.gates=[through,cutoff]'
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "search",
        help="search for the best graph, with workers on this machine",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--study", required=True, metavar="NAME", help="the study; also its config, unless study=CONFIG"
    )
    parser.add_argument("--workers", type=int, metavar="K", help="worker processes (cluster.workers)")
    parser.add_argument(
        "--trials", type=int, metavar="N", help="the budget, complete, pruned and failed together (study.trials)"
    )
    parser.add_argument(
        "--config-dir", type=Path, metavar="DIR", help="your own configs, searched before the shipped ones"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the whole config and stop")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides, as training.epochs=100")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Search until the budget is done.

    Returns:
        0 done; 1 done, but trials failed; 130 stopped before it was done.
    """
    from kdhpc.cli.study_config import study_config
    from kdhpc.cluster.search import prepare_study, search_locally
    from kdhpc.config.schema import check_study_name
    from kdhpc.networks.names import check_network
    from kdhpc.study.server import ensure_server
    from kdhpc.study.storage import Storage
    from kdhpc.study.summary import read_status

    name = check_study_name(args.study)
    config = study_config(name, _overrides(args), args.config_dir)
    check_network(config.network, config.dataset.image_size)
    if args.dry_run:
        return _print_config(config)
    ensure_server()
    storage = Storage.connect()
    study = prepare_study(name, config, storage)
    finished = search_locally(study, config, storage, Progress())
    if not finished:
        print(f"kdhpc: stopped; `kdhpc search --study {name}` goes on", file=sys.stderr)
        return 130
    failed = read_status(storage, name).trials.failed
    if failed:
        print(f"kdhpc: {failed} trials failed, see the logs in {StudyPaths.of(name).jobs.parent}", file=sys.stderr)
    return 1 if failed else 0


def _overrides(args: argparse.Namespace) -> list[str]:
    overrides: list[str] = list(args.overrides)
    if args.workers is not None:
        overrides.append(f"cluster.workers={args.workers}")
    if args.trials is not None:
        overrides.append(f"study.trials={args.trials}")
    return overrides


def _print_config(config: "SearchConfig") -> int:
    import yaml

    print(yaml.safe_dump(to_document(config), sort_keys=False), end="")
    return 0
