"""What the doctor finds in parts that work, that are absent, and whose import crashes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pkit.cli.commands.doctor import table
from p2pkit.cli.main import commands
from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.doctor import (
    PURPOSES,
    Finding,
    examine,
    examine_cuda_toolkit,
    healthy,
    mending_command,
    probe_in_process,
    requirement_of,
    summary,
    to_finding,
)
from p2pkit.minkowski.install import (
    Installed,
    check_wheel,
    install_minkowski,
    run_self_check,
)

GOOD = Finding("zarr", "ok", "3.1", "stores", "", "", needed=True)
BAD = replace(GOOD, name="timm", status="broken", command="pip install timm", detail="no such file")


def test_this_environment_is_healthy_and_every_part_is_named() -> None:
    findings = examine()
    assert [finding.name for finding in findings] == list(PURPOSES)
    assert healthy(findings), [finding for finding in findings if finding.status != "ok"]
    for finding in findings:
        assert bool(finding.version) == (finding.status == "ok"), finding
        assert not finding.command or finding.status != "ok", finding


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


def test_a_part_that_nothing_mends_has_its_reason_in_the_table() -> None:
    useless = replace(GOOD, name="toolkit", status="missing", detail="not usable", needed=False)
    assert table([useless])[1].endswith("not usable")
    assert len(table([useless])) == 2


def test_table_ends_with_the_commands() -> None:
    lines = table([GOOD, BAD])
    assert lines[1].split()[:3] == ["zarr", "ok", "3.1"]
    assert lines[-2:] == ["timm: no such file", "    pip install timm"]


TORCH = Finding("torch", "ok", "2.13.0", "networks", "", "CPU only, 2 threads", needed=True)
GPU_TORCH = replace(TORCH, detail="CUDA 13.0, GPUs: NVIDIA H100")
NO_GPU_TORCH = replace(TORCH, detail="CUDA 13.0, no GPU seen")
ENGINE = Finding("MinkowskiEngine", "ok", "0.5.4", "", "", "CPU build, equals", needed=False)
GPU_ENGINE = replace(ENGINE, detail="CUDA build, equals dense torch within 1e-05")
NO_ENGINE = replace(ENGINE, status="missing", version="", detail="not installed")


@pytest.mark.parametrize(
    ("torch", "engine", "expected"),
    [
        (TORCH, ENGINE, "on the CPU with MinkowskiEngine; training at the size of the paper needs"),
        (NO_GPU_TORCH, ENGINE, "on the CPU with MinkowskiEngine; training at the size of the"),
        (GPU_TORCH, GPU_ENGINE, "on a GPU with MinkowskiEngine; nothing is missing"),
        (GPU_TORCH, ENGINE, "on a GPU with the torch engine, on the CPU with MinkowskiEngine; `p2"),
        (TORCH, NO_ENGINE, "on the CPU with the torch engine; `p2pkit doctor --install minkowski`"),
        (GPU_TORCH, NO_ENGINE, "torch engine; `p2pkit doctor --install minkowski --cuda` adds"),
    ],
)
def test_the_last_sentence_says_ready_for_what(
    torch: Finding, engine: Finding, expected: str
) -> None:
    sentence = summary([torch, engine, GOOD])
    assert sentence.startswith("Ready to extract, train, evaluate and report on ")
    assert expected in sentence
    assert sentence.count(". ") == 0


def test_the_last_sentence_names_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_doctor([], monkeypatch, [TORCH, ENGINE, BAD])
    last = done.stdout.splitlines()[-1]
    assert last == "Not ready: timm must be repaired first, with the commands above."


@pytest.mark.parametrize(
    ("installed", "code", "expected"),
    [
        (
            Installed(None, "no C++ compiler"),
            1,
            "was not installed: no C++ compiler. p2pkit uses engine=torch instead",
        ),
        (
            Installed({"version": "0.5.4", "built_with_cuda": False, "errors": {"cpu": {}}}),
            0,
            "MinkowskiEngine 0.5.4 (CPU build): its layers equal dense torch on cpu",
        ),
        (
            Installed(
                {"version": "0.5.4", "built_with_cuda": False, "errors": {"cpu": {}}}, "no nvcc"
            ),
            1,
            "It is not the CUDA build, because no nvcc",
        ),
    ],
)
def test_one_line_says_what_became_of_an_installation(
    installed: Installed, code: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "p2pkit.cli.commands.doctor.install_minkowski", lambda cuda, report: installed
    )
    done = CliRunner().invoke(commands, ["doctor", "--install", "minkowski"])
    assert done.exit_code == code
    assert expected in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("cuda", "status", "detail"),
    [
        (None, "missing", "not usable"),
        ("13.0", "missing", "no nvcc of CUDA 13.0"),
        ("12.8", "broken", "belongs to CUDA 13.0, expected 12.8"),
    ],
)
def test_a_toolkit_is_compared_with_torchs_cuda(
    cuda: str | None, status: str, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = ["nvcc in /cuda belongs to CUDA 13.0, expected 12.8"] if cuda == "12.8" else []
    monkeypatch.setattr("p2pkit.minkowski.doctor.torch_cuda_version", lambda: cuda)
    monkeypatch.setattr("p2pkit.minkowski.doctor.usable_toolkit", lambda version: (None, reasons))
    finding = examine_cuda_toolkit()
    assert (finding.status, finding.needed) == (status, False)
    assert detail in finding.detail
    assert finding.command == ("" if cuda is None else "p2pkit doctor --install minkowski --cuda")


def run_doctor(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, found: list[Finding]
) -> Result:
    monkeypatch.setattr("p2pkit.cli.commands.doctor.examine", lambda: found)
    return CliRunner().invoke(commands, ["doctor", *arguments])


def test_exit_code_tells_health(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_doctor([], monkeypatch, [TORCH, ENGINE, GOOD]).exit_code == 0
    sick = run_doctor(["--json"], monkeypatch, [GOOD, BAD])
    assert sick.exit_code == 1
    assert [Finding(**finding) for finding in json.loads(sick.stdout)] == [GOOD, BAD]


@pytest.mark.parametrize("arguments", [["--install", "all"], ["--cuda"]])
def test_wrong_usage(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_doctor(arguments, monkeypatch, [GOOD]).exit_code == 2


@pytest.mark.minkowski
def test_install_leaves_a_working_engine_alone() -> None:
    lines: list[str] = []
    result = install_minkowski(cuda=None, report=lines.append).result
    assert result is not None
    assert lines == [f"MinkowskiEngine {result['version']} is installed and passes its self-check"]


def test_self_check_tells_a_broken_engine(tmp_path: Path) -> None:
    (tmp_path / "MinkowskiEngine.py").write_text("raise ImportError('undefined symbol: _ZN2at')")
    with pytest.raises(MissingDependencyError, match="undefined symbol: _ZN2at"):
        run_self_check(tmp_path)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "minkowskiengine-0.5.4-py3-none-any.whl"
    wheel.write_bytes(b"not a wheel")
    with pytest.raises(MissingDependencyError, match="failed: "):
        check_wheel(wheel)
