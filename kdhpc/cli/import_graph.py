"""``kdhpc import-graph``: a graph that the method's authors have published, as a graph's file."""

import argparse
import sys
from pathlib import Path

from kdhpc.cli.parser import refuse_other_file
from kdhpc.words import counted

_DESCRIPTION = """\
Reads the log/config.json of a trial of the authors' search (https://github.com/naok0615/ensemble_graph), or of the
knowledge transfer graph before it (https://github.com/somaminami/DCL), and writes the graph as a file that
`kdhpc train --graph` takes. Prints the path; what is known of the search, and what is not, goes to stderr.
"""
_EPILOG = """\
example:
  kdhpc import-graph ensemble_graph/log/config.json --out authors.json
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "import-graph",
        help="make a graph's file of one that the method's authors have published",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("config", type=Path, metavar="config.json", help="the authors' file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: graph-<key>.json, here)")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Read, write, and say what is not known."""
    from kdhpc.graph.authors import read_authors_graph
    from kdhpc.graph.serial import write_graph
    from kdhpc.graph.space import graph_key

    imported = read_authors_graph(args.config)
    graph, provenance = imported.stored.graph, imported.stored.provenance
    path = args.out or Path(f"graph-{graph_key(graph)}.json")
    refuse_other_file(path)
    write_graph(path, graph, provenance)
    print(path)
    known = {"data set": "dataset", "epochs": "config.training.epochs", "batch size": "config.training.batch_size"}
    facts = [f"{what} {provenance[key]}" for what, key in known.items() if key in provenance]
    about = [counted(graph.num_nodes, "node"), f"networks {', '.join(imported.networks)}"]
    print(f"{', '.join(about)}; {', '.join(facts)}", file=sys.stderr)
    if imported.pretrained:
        nodes = ", ".join(str(node + 1) for node in imported.pretrained)
        print(f"node {nodes} had pretrained weights, which are not imported: objective.pretrained", file=sys.stderr)
    print(
        "not in the file: the accuracy, the trial's number, which images trained and which scored, initial weights",
        file=sys.stderr,
    )
    return 0
