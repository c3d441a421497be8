"""The files that publishing takes: they parse, and say the same as the package."""

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

import p2pkit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
NAMES_TORCH = ("Makefile", "constraints.txt", ".github/workflows", "docker", "docs/installation.md")


def texts(place: str) -> list[str]:
    path = ROOT / place
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [file.read_text() for file in files]


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", p2pkit.__version__)
    assert metadata("p2pkit")["Version"] == p2pkit.__version__
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_every_supported_python_is_classified_and_tested() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    classified = {
        name.rpartition(" :: ")[2] for name in PROJECT["classifiers"] if " :: Python :: 3." in name
    }
    (tested,) = (
        job["strategy"]["matrix"]["python"]
        for job in yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    )
    assert set(tested) == classified
    assert min(classified, key=lambda version: int(version.split(".")[1])) == oldest


def test_torch_is_named_with_one_version() -> None:
    named = {
        version
        for place in NAMES_TORCH
        for text in texts(place)
        for version in re.findall(r"\btorch==([\d.]*\d)", text)
    }
    assert len(named) == 1


def test_the_citation_has_what_its_format_demands() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["url"].endswith("2104.04687")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_files_and_targets_that_exist(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    commands = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        for script in re.findall(r"\btools/[\w./-]+", command):
            assert (ROOT / script).is_file()
        for target in re.findall(r"\bmake ([\w-]+)", command):
            assert target in targets


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_parse(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"blank_issues_enabled"} or {"name", "description", "body"} <= form.keys()


def test_hooks_are_the_commands_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert [hook["entry"].split()[0] for hook in hooks] == [
        ".venv/bin/ruff",
        ".venv/bin/ruff",
        ".venv/bin/basedpyright",
    ]


def test_what_few_need_is_an_extra() -> None:
    """open3d brings dash, plotly and jedi; only a window needs it."""
    needed = " ".join(PROJECT["dependencies"])
    for name in ("open3d", "transformers", "ray", "wandb", "obstore", "onnxruntime"):
        assert name not in needed
    assert any(line.startswith("open3d-cpu") for line in PROJECT["optional-dependencies"]["view"])
