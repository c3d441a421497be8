"""What the doctor finds in parts that work, that are absent, and whose import crashes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pkit.cli.doctor import table
from p2pkit.cli.main import commands
from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.doctor import (
    PURPOSES,
    Finding,
    examine,
    healthy,
    mending_command,
    probe_in_process,
    requirement_of,
    to_finding,
)
from p2pkit.minkowski.install import check_wheel, install_minkowski, run_self_check

GOOD = Finding("zarr", "ok", "3.1", "stores", "", "", needed=True)
BAD = replace(GOOD, name="timm", status="broken", command="pip install timm", detail="no such file")


def test_this_environment_is_healthy_and_every_part_is_named() -> None:
    findings = examine()
    assert [finding.name for finding in findings] == list(PURPOSES)
    assert healthy(findings), [finding for finding in findings if finding.status != "ok"]
    for finding in findings:
        assert bool(finding.version) == (finding.status == "ok"), finding
        assert bool(finding.command) == (finding.status != "ok"), finding


@pytest.fixture
def fake_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose modules child processes import first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_crash_hides_no_other_part(fake_package: Path) -> None:
    (fake_package / "zarr.py").write_text("import os; os.abort()")
    parts = ("teacher weights", "zarr", "teacher weights")
    first, crashed, last = probe_in_process(parts)
    assert first["status"] == last["status"] == "ok"
    assert crashed["status"] == "broken"
    assert "code -6" in crashed["detail"]


def test_a_missing_system_library_names_debians_package(fake_package: Path) -> None:
    message = "libusb-1.0.so.0: cannot open shared object file: No such file or directory"
    (fake_package / "open3d.py").write_text(f"raise ImportError({message!r})")
    (result,) = probe_in_process(("open3d",))
    finding = to_finding(**result)
    assert finding.status == "broken"
    assert finding.command == "apt-get install -y --no-install-recommends libusb-1.0-0"


def test_a_part_that_pip_knows_but_python_does_not_find_is_broken(fake_package: Path) -> None:
    (fake_package / "zarr.py").write_text("raise ModuleNotFoundError('no module zarr')")
    (result,) = probe_in_process(("zarr",))
    assert result["status"] == "broken"
    assert "--force-reinstall" in to_finding(**result).command


def test_pip_commands_for_missing_parts_name_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.13.0+cpu"}
    monkeypatch.setattr(
        "p2pkit.minkowski.doctor.distribution_version", lambda part: installed.get(part, "")
    )
    command = mending_command("timm", "No module named 'timm'")
    assert command.endswith(f"-m pip install torch==2.13.0 '{requirement_of('timm')}'")


def test_requirements_come_from_our_metadata() -> None:
    assert requirement_of("timm").startswith("timm>=")
    assert requirement_of("not-ours") == "not-ours"


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([GOOD], True),
        ([GOOD, BAD], False),
        ([GOOD, replace(BAD, needed=False)], True),
        ([replace(BAD, status="missing")], False),
    ],
)
def test_only_needed_parts_decide(findings: list[Finding], expected: bool) -> None:
    assert healthy(findings) is expected


def test_table_ends_with_the_commands() -> None:
    lines = table([GOOD, BAD])
    assert lines[1].split()[:3] == ["zarr", "ok", "3.1"]
    assert lines[-2:] == ["timm: no such file", "    pip install timm"]


def run_doctor(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, found: list[Finding]
) -> Result:
    monkeypatch.setattr("p2pkit.cli.doctor.examine", lambda: found)
    return CliRunner().invoke(commands, ["doctor", *arguments])


def test_exit_code_tells_health(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_doctor([], monkeypatch, [GOOD]).exit_code == 0
    sick = run_doctor(["--json"], monkeypatch, [GOOD, BAD])
    assert sick.exit_code == 1
    assert [Finding(**finding) for finding in json.loads(sick.stdout)] == [GOOD, BAD]


@pytest.mark.parametrize("arguments", [["--install", "all"], ["--cuda"]])
def test_wrong_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_doctor(arguments, monkeypatch, [GOOD]).exit_code == 2


def test_install_leaves_a_working_engine_alone() -> None:
    lines: list[str] = []
    result = install_minkowski(cuda=None, report=lines.append)
    assert lines == [f"MinkowskiEngine {result['version']} is installed and passes its self-check"]


def test_self_check_tells_a_broken_engine(tmp_path: Path) -> None:
    (tmp_path / "MinkowskiEngine.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
    with pytest.raises(MissingDependencyError, match="undefined symbol: _ZN2at"):
        run_self_check(tmp_path)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "minkowskiengine-0.5.4-py3-none-any.whl"
    wheel.write_bytes(b"not a wheel")
    with pytest.raises(MissingDependencyError, match="could not install"):
        check_wheel(wheel)
