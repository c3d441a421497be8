"""The measured tables in docs/teacher-grids.md are what the tool measures again."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grid_table", ROOT / "tools" / "grid_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_grids_of_transformers(tool: ModuleType) -> None:
    page = tool.PAGE.read_text()
    table = "\n".join(tool.transformers_rows())
    assert tool.with_table(page, "grids of transformers", table) == page


@pytest.mark.slow
def test_answers_of_files(tool: ModuleType) -> None:
    """To a twentieth of a cell, in px: the random weights are those of one version of torch."""
    page = tool.PAGE.read_text().splitlines()
    start = page.index("<!-- grids of files: tools/grid_table.py writes this table -->") + 1
    for line, row in zip(page[start:], tool.file_rows(), strict=False):
        assert line.split("|")[:-2] == row.split("|")[:-2]
        if line.startswith("| ") and "answer" not in line:
            answers = [[float(x) for x in text.split("|")[-2].split(",")] for text in (line, row)]
            assert answers[0] == pytest.approx(answers[1], abs=1.6)


def test_a_page_without_the_marks_is_refused(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match="holds 0 marked tables of grids; expected one"):
        tool.with_table("no marks", "grids", "a table")
