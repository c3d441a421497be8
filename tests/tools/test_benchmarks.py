"""Every benchmark still fits the code that it measures."""

import importlib
from pathlib import Path
from unittest.mock import patch

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_what_it_imports_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    assert callable(importlib.import_module(name).main)


def test_the_functions_that_extract_cost_times_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for _, _, name in importlib.import_module("extract_cost").PARTS:
        function, _ = patch(f"p2pkit.{name}").get_original()
        assert callable(function), name
