"""Limits that keep the code readable, and words that must not stand in the repository."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE_FOLDERS = ("p2pkit", "pipelines", "cli")
LONGEST_FUNCTION = 60
SKIPPED = frozenset({".git", "build", "dist", "runs", "out"})
TEXT = frozenset({".py", ".md", ".toml", ".txt", ".sh", ".h", ".json", ".yml", ".yaml", ""})

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.*{}$~-])/(root|home|work|Users)/\w"),
    "a registry's host name": re.compile(r"\b(pypi\.org|pythonhosted\.org|download\.pytorch\.org)"),
    "unfinished work": re.compile(r"\b(TODO|FIXME|XXX)\b"),
}
RUNS_ON_LOAD = re.compile(
    r"\bpickle\.(loads?|Unpickler)\b|from pickle import|allow_pickle=True|weights_only=False"
)


def code_files() -> list[Path]:
    """Our modules, each once: the links inside p2pkit are left out."""
    files = (path for folder in CODE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    linked = {ROOT / "p2pkit" / "cli", ROOT / "p2pkit" / "pipelines"}
    return [path for path in files if not linked & set(path.parents)]


def text_files() -> list[Path]:
    """All text of the repository but this file, which names what it looks for."""
    found: list[Path] = []
    for top in sorted(ROOT.iterdir()):
        hidden = top.is_dir() and top.name.startswith(".") and top.name not in {".ci", ".github"}
        if hidden or top.name in SKIPPED or top.suffix == ".egg-info":
            continue
        inside = sorted(top.rglob("*")) if top.is_dir() else [top]
        found += [
            path
            for path in inside
            if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts
        ]
    return [path for path in found if path != Path(__file__)]


def test_functions_are_short() -> None:
    too_long: list[str] = []
    for path in code_files():
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                too_long.append(f"{where} {node.name}: {length} lines")
    assert not too_long, "\n".join(too_long)


@pytest.mark.parametrize("what", list(FORBIDDEN))
def test_nothing_forbidden_stands_in_the_text(what: str) -> None:
    found: list[str] = []
    for path in text_files():
        text = path.read_text(errors="replace")
        for match in FORBIDDEN[what].finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line} {match[0].strip()}")
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a path of one machine", "open('/home/someone/data')"),
        ("a registry's host name", "https://pypi.org/simple"),
        ("unfinished work", "# TODO: write it"),
    ],
)
def test_the_patterns_find_what_they_are_for(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


def test_no_file_is_read_in_a_way_that_runs_code() -> None:
    found = [path for path in code_files() if RUNS_ON_LOAD.search(path.read_text())]
    assert not found
    assert RUNS_ON_LOAD.search("np.load(path, allow_pickle=True)")


def test_the_folders_inside_the_package_are_links() -> None:
    for name in ("cli", "pipelines"):
        link = ROOT / "p2pkit" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name
