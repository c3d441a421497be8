"""`p2pkit` itself: a light start, exit codes, and commands that are there when they are called."""

import importlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from interruptible import interruptible

from p2pkit import __version__
from p2pkit.cli.main import COMMANDS, commands, main
from p2pkit.cli.progress import progress_bar
from p2pkit.errors import ConfigError
from p2pkit.files import write_atomic

ROOT = Path(__file__).parents[2]

IMPORTED = """
import sys
from p2pkit.cli.main import main
try:
    main(["--help"])
except SystemExit as done:
    assert done.code == 0
print([name for name in ("torch", "numba", "numpy", "timm", "PIL") if name in sys.modules])
"""

COMMAND = """
import errno

import click
from p2pkit.errors import ConfigError

@click.command()
@click.argument("what")
def attempt(what):
    if what == "error":
        raise ConfigError("steps is -1; it must be at least 1")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "exit":
        click.get_current_context().exit(7)
    if what == "fault":
        raise ZeroDivisionError
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "out/report.html")
    if what == "connection":
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
"""


def test_help_is_light() -> None:
    """Below 0.3 s of CPU, at the best of five tries on a machine that others use."""

    def cpu_seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "p2pkit.cli.main", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_seconds() for _ in range(5)) < 0.3


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(commands, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"p2pkit {name}" in result.output
    assert "Example" in result.output


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("extract", ("posed-rgbd,redwood,ros-rgbd,", "resnet50", "onnx:FILE")),
        ("check", ("7scenes,arkitscenes,",)),
        ("train", ("Res16UNet34C,", "PTv3-encoder", "ppnce-symmetric,", "[paper|slidr|")),
    ],
)
def test_choices_are_listed(command: str, names: tuple[str, ...]) -> None:
    # Names are broken at their hyphens.
    text = "".join(CliRunner().invoke(commands, [command, "--help"]).output.split())
    assert [name for name in names if name not in text] == []


def every_command(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from (
            every_command(command, context) if isinstance(command, click.Group) else [command]
        )


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{command.name} {parameter.opts[0]}"
        for command in every_command(commands, click.Context(commands))
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


@pytest.mark.parametrize(("word", "meant"), [("extrct", "extract"), ("trian", "train")])
def test_a_mistyped_command_names_the_nearest(word: str, meant: str) -> None:
    result = CliRunner().invoke(commands, [word])
    assert result.exit_code == 2
    assert f"No such command '{word}'; did you mean {meant}?" in result.stderr
    assert "did you mean" not in CliRunner().invoke(commands, ["frobnicate"]).stderr


def test_version() -> None:
    assert CliRunner().invoke(commands, ["--version"]).output == f"p2pkit {__version__}\n"


def add_command(source: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make `attempt` a command whose file has this source."""
    (folder / "attempt.py").write_text(source)
    package = importlib.import_module("p2pkit.cli.commands")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "p2pkit.cli.commands.attempt", raising=False)
    monkeypatch.setitem(COMMANDS, "attempt", "Attempt.")


@pytest.fixture
def attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A command `attempt` whose argument chooses how it ends."""
    add_command(COMMAND, monkeypatch, tmp_path)


@pytest.mark.usefixtures("attempt")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["attempt", "nothing"], 0, ""),
        (["attempt", "exit"], 7, ""),
        (["attempt", "error"], 1, "Error: steps is -1; it must be at least 1\n"),
        (
            ["attempt", "full"],
            1,
            "Error: out/report.html: No space left on device; make room on that disk, then run "
            "this again\n",
        ),
        (["attempt", "interrupt"], 130, "Interrupted"),
        (["attempt"], 2, "Missing argument 'WHAT'"),
        (["attempt", "--wrong"], 2, "No such option"),
        (["wrong"], 2, "No such command 'wrong'"),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    if message.startswith("Error"):
        assert captured.err == message


def test_ctrl_c_during_the_import_of_torch(tmp_path: Path) -> None:
    """torch's own import turns the exception into an abort: here it counts the attempt."""
    (tmp_path / "torch.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    os.abort()\n"
    )
    command = "from p2pkit.cli.main import main; main(['train', 'rooms.store', '--out', 'run'])"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", command],
        capture_output=True,
        text=True,
        env=environment,
        preexec_fn=interruptible,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "to continue: p2pkit train rooms.store --out run --resume"
    )


@pytest.mark.usefixtures("attempt")
@pytest.mark.parametrize(
    ("what", "error"), [("fault", ZeroDivisionError), ("connection", ConnectionResetError)]
)
def test_a_fault_of_ours_keeps_its_traceback(what: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        main(["attempt", what])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pkit.files.temporary_name", lambda name: "/dev/full")
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)
    with pytest.raises(OSError, match="No space left on device") as full:
        write_atomic(tmp_path / "report.html", b"page")
    assert full.value.filename == str(tmp_path / "report.html")


@pytest.mark.parametrize(("steps", "left"), [(0, False), (2, True)])
def test_an_error_before_the_first_step_erases_the_bar(
    steps: int, left: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def fail() -> None:
        with progress_bar("frames") as bar:
            bar.update(steps)
            raise ConfigError("no such dataset")

    with pytest.raises(ConfigError):
        fail()
    last_drawn = capsys.readouterr().err.rstrip("\r\n").rpartition("\r")[2]
    assert ("frames" in last_drawn) is left


def test_a_pipe_gets_lines_and_no_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress_bar("frames", 3) as bar:
        for _ in range(3):
            bar.update(1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("3/3 frames [")
    monkeypatch.setattr("p2pkit.cli.progress.LINE_EVERY_S", 0.001)
    with progress_bar("frames", 2) as bar:
        for _ in range(2):
            time.sleep(0.01)
            bar.update(1)
    written = capsys.readouterr().err
    assert [line[:10] for line in written.splitlines()][:2] == ["1/2 frames", "2/2 frames"]
    assert "\r" not in written
    with progress_bar("frames", 3, hide=True) as bar:
        bar.update(1)
    assert capsys.readouterr().err == ""


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_command("import package_that_is_not_there\n", monkeypatch, tmp_path)
    with pytest.raises(SystemExit) as done:
        main(["attempt"])
    assert done.value.code == 1
    message = capsys.readouterr().err
    assert "package_that_is_not_there" in message
    assert "p2pkit doctor" in message


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(shell: str) -> None:
    done = CliRunner().invoke(commands, ["completion", shell])
    assert done.exit_code == 0
    assert "_P2PKIT_COMPLETE" in done.stdout
    assert "p2pkit" in done.stdout


def test_a_shell_completes_commands_and_options() -> None:
    for words, wanted in (("p2pkit ev", "evaluate"), ("p2pkit train --pre", "--preset")):
        done = subprocess.run(
            [sys.executable, "-m", "p2pkit.cli.main"],
            env={
                **os.environ,
                "_P2PKIT_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"plain,{wanted}" in done.stdout, done.stderr
