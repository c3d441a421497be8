"""On a terminal with NO_COLOR, nothing is written but text and what redraws a progress bar."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|.)")
REDRAWS = {"\x1b[A", "\x1b[K", "\x1b[0m"}
"""Cursor up and erase to the end of the line, by which tqdm moves between bars; and the reset that
colorama, where it is installed, writes when tqdm ends. None of them sets a colour.
"""
EXTRACT = ["extract", "--dataset", "demo-scene", "--limit", "2", "--out", "rooms.store"]


def on_a_terminal(arguments: list[str], folder: Path) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # tqdm draws nothing on a terminal without a width
    command = [sys.executable, "-m", "p2pkit.cli.main", *arguments]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        chunks: list[bytes] = []
        try:
            while chunk := os.read(ours, 4096):
                chunks.append(chunk)
        except OSError:  # Linux tells so that the other side is closed
            pass
    os.close(ours)
    return b"".join(chunks).decode()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(EXTRACT, "2/2 [", marks=pytest.mark.slow),
        (["--help"], "extract"),
        (["train", "nowhere.store", "--out", "run"], "nowhere.store"),
        (["extract", "--no-such-option"], "No such option"),
    ],
)
def test_no_colour_is_written(arguments: list[str], message: str, tmp_path: Path) -> None:
    written = on_a_terminal(arguments, tmp_path)
    assert message in written
    assert set(ESCAPE.findall(written)) <= REDRAWS
