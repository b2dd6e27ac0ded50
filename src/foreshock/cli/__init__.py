"""The ``foreshock`` command. Each subcommand is a function, its module loaded on use."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

#: Command, module below this package, and what ``foreshock --help`` says.
COMMANDS = {
    "demo": ("demo", "train a network that groks beside its random-label twin, write a report"),
    "run": ("experiment", "run an experiment, such as grokking, with the monitor attached"),
    "sweep": ("sweep", "run experiments over variants and seeds, one process a trial, resumable"),
    "results": ("results", "the numbers that experiments are held to, from runs in a folder"),
    "simulate": ("simulate", "run a simulated world and compare it with its exact answer"),
    "observables": ("catalogue", "list what can be measured: formula, null, oracle, cost"),
    "ls": ("runs", "list the runs in a folder"),
    "report": ("runs", "write the offline HTML report of a run, or of a run and its twin"),
    "replay": ("runs", "run detectors over a recorded run"),
    "calibrate": ("calibrate", "make an alarm from known-safe runs, at a stated false-alarm rate"),
    "forecast": ("forecast", "fit or score the probability of an event within h steps"),
    "doctor": ("runs", "check whether runs can be written, read and measured here"),
    "bench": ("bench", "run a benchmark of the source checkout, such as coverage"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Exit codes: 0 done; 1 done, and the answer is no (a check failed, a replay differs); 2 the
    command could not be carried out, and one sentence on standard error says why; 130 interrupted.

    Args:
        arguments: Words after ``foreshock``; those of the process if not given.

    Returns:
        The exit code.

    Raises:
        ModuleNotFoundError: If a package other than torch is missing: a broken installation.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(version("foreshock"))
        return 0
    if words[0] not in COMMANDS:
        print(f"foreshock: there is no command {words[0]!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    # Small networks train several times slower on two threads that fight over two cores; this must
    # be set before the numerical libraries start.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import tyro

    from foreshock.store import StoreError

    try:
        module = importlib.import_module(f"foreshock.cli.{COMMANDS[words[0]][0]}")
        command = getattr(module, words[0])
        if words[0] in ("bench", "forecast", "run"):  # their options are their own
            return command(words[1:])
        # Options of a command may stand behind its subcommand: `simulate ou --out here`.
        behind = (tyro.conf.CascadeSubcommandArgs,)
        return tyro.cli(command, args=words[1:], prog=f"foreshock {words[0]}", config=behind) or 0
    except (ValueError, OSError, StoreError) as error:
        print(f"foreshock {words[0]}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        print(
            f"foreshock {words[0]} needs torch. Type: pip install 'foreshock[torch]'.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("foreshock: interrupted; what was recorded is kept.", file=sys.stderr)
        return 130


def usage() -> str:
    """The overview of commands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: foreshock COMMAND [options]     (foreshock COMMAND --help says more)",
            "",
            "Early-warning signals in neural-network training, each with its uncertainty.",
            "",
            *lines,
        ]
    )
