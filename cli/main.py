"""`p2pkit`: the commands by name, each imported when it is used, and errors as one line."""

import difflib
import errno
import importlib
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import click

import p2pkit
from p2pkit.errors import MissingDependencyError, P2pkitError

INTERRUPTED = 130
"""Exit code after Ctrl-C, by shell convention: 128 + SIGINT."""

DISK_ERRORS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room within your quota of that disk",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that you may read and write",
    errno.EPERM: "name a place that you may read and write",
    errno.ENOTDIR: "name a folder, not a file",
    errno.EISDIR: "name a file, not a folder",
}
"""What to do about file-system errors that are not caused by the code."""


COMMANDS = {
    "pretrain": "Run every stage: check a recording, extract, train, test and report.",
    "init": "Write a commented settings file for extract or train.",
    "plan": "Estimate what an extraction will take: gigabytes, passes, time.",
    "extract": "Run a 2D network once over a recording; store its features.",
    "check": "Check whether pixel-point pairs can be trusted, or what is wrong.",
    "train": "Pretrain a 3D network on a store.",
    "profile": "Show where the time of a training step goes.",
    "evaluate": "Compare pretrained weights with scratch on few labels.",
    "retrieval": "Measure how often a point finds its own pixel.",
    "view": "Show one frame of a store.",
    "report": "Write one HTML page about a store or a run.",
    "export": "Write a run's student for other code bases.",
    "shards": "Inspect, verify, repair, merge and copy stores.",
    "demo": "Pretrain on generated rooms, in minutes.",
    "doctor": "Show what is installed, and install what is missing.",
    "completion": "Print a shell-completion script.",
}
"""The command of each file in `commands/`, and its line in `p2pkit --help`."""


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the data flow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for an unknown name.

        Raises:
            MissingDependencyError: a package required by the command is not installed.
        """
        if cmd_name not in COMMANDS:
            return None
        try:
            return getattr(importlib.import_module(f"p2pkit.cli.commands.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package == "p2pkit":
                raise
            raise MissingDependencyError(
                f"`p2pkit {cmd_name}` needs the package {package}, which is not installed: `p2pkit "
                "doctor` names the command that installs it"
            ) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            click.UsageError: no such command; the message names the nearest one.
        """
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and near:
            raise click.UsageError(f"No such command {args[0]!r}; did you mean {near[0]}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write name and help of each command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(p2pkit.__version__, prog_name="p2pkit", message="%(prog)s %(version)s")
def commands() -> None:
    """Pretrain 3D networks from 2D networks by pixel-to-point contrastive transfer.

    Example: p2pkit demo
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path is printed with the bytes that it has, so that a shell can use it.
        sys.stdout.reconfigure(errors="surrogateescape")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 success, 1 error, 2 usage error, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with _interruptible_imports(words):
            code = commands.main(arguments, prog_name="p2pkit", standalone_mode=False)
    except P2pkitError as error:
        click.echo(f"Error: {error}", err=True)
        code = 1
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        click.echo(
            f"Error: {where}{error.strerror}; {DISK_ERRORS[error.errno]}, then run this again",
            err=True,
        )
        code = 1
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(_interrupted(words), err=True)
        code = INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _interruptible_imports(words: Sequence[str]) -> Generator[None]:
    """Exit at once if Ctrl-C arrives while torch is being imported.

    An exception there comes out of torch's C++ and aborts the process with a core dump; nothing is
    being written at that time.
    """

    def stop(_signal: int, _frame: object) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and getattr(torch.__spec__, "_initializing", False):
            os.write(2, f"{_interrupted(words)}\n".encode())
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not in_main_thread:  # not ours to handle
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


KEPT = ("demo", "evaluate", "extract", "pretrain", "shards", "train")
"""Commands whose completed work is kept when they are interrupted."""


def _interrupted(words: Sequence[str]) -> str:
    if not {*words[:1]} & {*KEPT}:
        return "\nInterrupted."
    return f"\nInterrupted. Completed work is kept; to continue: {_continuing(words)}"


def _continuing(words: Sequence[str]) -> str:
    """The command that continues after an interruption; for `train` with --resume."""
    resume = list(words[:1]) == ["train"] and "--resume" not in words
    return shlex.join(["p2pkit", *words, *(["--resume"] if resume else [])])


if __name__ == "__main__":
    main()
