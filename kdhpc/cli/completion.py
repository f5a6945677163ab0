"""``kdhpc completion``: what a shell needs so that Tab completes kdhpc's commands."""

import argparse
import sys
from collections.abc import Mapping

_SHELLS: Mapping[str, str] = {
    "bash": "~/.bashrc",
    "zsh": "~/.zshrc, after compinit",
    "fish": "~/.config/fish/config.fish",
}
_DESCRIPTION = """\
Prints a piece of shell. Once the shell has read it, Tab completes commands, options, studies, config groups and keys.
"""
_EPILOG = """\
examples:
  kdhpc completion bash                  the line that lets Tab complete
put it into your shell's own file:
  eval "$(kdhpc completion bash)"        into ~/.bashrc
  eval "$(kdhpc completion zsh)"         into ~/.zshrc, after compinit
  source (kdhpc completion fish | psub)  into ~/.config/fish/config.fish
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        help="let Tab complete kdhpc's commands in bash, zsh or fish",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("shell", choices=tuple(_SHELLS), help="the shell")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the code; at a terminal, say where it belongs."""
    from argcomplete.shell_integration import shellcode

    # Without the shell's own completion of files where nothing fits: a study is no file.
    code = shellcode(["kdhpc"], shell=args.shell, complete_arguments=["-o", "nospace"])
    if sys.stdout.isatty():
        print(f"kdhpc: this belongs into {_SHELLS[args.shell]}, see `kdhpc completion --help`", file=sys.stderr)
    print(code)
    return 0
