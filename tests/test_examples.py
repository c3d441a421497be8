"""The notebooks of examples/ hold no output, and run from the first cell to the last."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
SMALL = {"FRAMES": "6", "MINUTES": "0.05", "STEPS": "4"}
SHORTER = {"training=(": 'training=("stream.batch_size=1", '}
SAYS = {
    "own_recording.ipynb": ("Learned: in ", "voxels of 0.1 m"),
    "training_loop.ipynb": ("features of five pairs (5, ", "in the last three"),
}
"""What a notebook prints, among other things."""


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / name, as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_output(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert name in SAYS
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))


@pytest.mark.slow
# The kernel's client warns about its own event loop.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    for variable, value in {**SMALL, "OUT": str(tmp_path / "out")}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(name)
    for cell in code_cells(notebook):
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert all(words in printed for words in SAYS[name]), printed
