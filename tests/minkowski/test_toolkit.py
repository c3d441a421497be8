"""What a CUDA build is made with, on fake toolkits: nothing is compiled here."""

import os
import sys
from pathlib import Path

import pytest

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski import toolkit as toolkits
from p2pkit.minkowski.toolkit import (
    HEADERS,
    Toolkit,
    library_links,
    nvcc_version,
    pip_install_command,
    pip_toolkit,
    require_toolkit,
    system_toolkits,
    toolkit_environment,
    usable_toolkit,
)


def write_nvcc(home: Path, version: str) -> None:
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.88'\n")
    nvcc.chmod(0o755)


def write_toolkit(home: Path, version: str, without: str = "") -> Path:
    """A toolkit with all headers but one."""
    write_nvcc(home, version)
    for header in HEADERS:
        if header != without:
            folder = home / "include" / ("cccl" if header.startswith("thrust") else "")
            (folder / header).parent.mkdir(parents=True, exist_ok=True)
            (folder / header).touch()
    return home


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No toolkit anywhere; gives the folder where pip's packages would make one."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(toolkits, "USUAL_PLACE", tmp_path / "none")
    monkeypatch.setattr(toolkits.sysconfig, "get_path", lambda name: str(tmp_path / "site"))
    return tmp_path / "site" / "nvidia" / "cu13"


def no_pip(command: list[str]) -> None:
    raise AssertionError(f"nothing needs to be installed: {command}")


def test_version_of_a_compiler_that_runs_and_of_none(tmp_path: Path) -> None:
    write_nvcc(tmp_path, "12.4")
    assert nvcc_version(tmp_path / "bin" / "nvcc") == "12.4"
    assert nvcc_version(tmp_path / "absent") == ""


def test_a_complete_toolkit_on_path_is_taken(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = write_toolkit(tmp_path / "cuda", "13.0")
    monkeypatch.setenv("PATH", f"{home / 'bin'}:/usr/bin")
    assert require_toolkit("13.0", no_pip) == (Toolkit(home, "13.0", from_pip=False), [])


def test_a_toolkit_of_another_version_or_without_a_header_is_named(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write_toolkit(tmp_path / "older", "12.4")
    part = write_toolkit(tmp_path / "part", "13.0", without="cublas_v2.h")
    monkeypatch.setenv("CUDA_HOME", str(older))
    monkeypatch.setenv("PATH", f"{part / 'bin'}:/usr/bin")
    found, reasons = usable_toolkit("13.0")
    assert found is None
    assert reasons == [
        f"nvcc in {older} belongs to CUDA 12.4, expected 13.0",
        f"{part} lacks cublas_v2.h of cuBLAS",
    ]


def test_pips_packages_of_torchs_version_make_one_where_there_is_none(bare: Path) -> None:
    commands: list[list[str]] = []

    def run_pip(command: list[str]) -> None:
        commands.append(command)
        write_toolkit(bare, "13.0")

    assert require_toolkit("13.0", run_pip) == (Toolkit(bare, "13.0", from_pip=True), [])
    assert commands == [pip_install_command("13.0")]
    assert commands[0][:4] == [sys.executable, "-m", "pip", "install"]
    assert "--no-deps" in commands[0]
    assert commands[0][-4:] == [
        "nvidia-cuda-nvcc==13.0.*",
        "nvidia-cuda-cccl==13.0.*",
        "nvidia-cuda-crt==13.0.*",
        "nvidia-nvvm==13.0.*",
    ]
    assert require_toolkit("13.0", no_pip)[0] == pip_toolkit("13.0")


def test_of_many_absent_headers_two_are_named(tmp_path: Path) -> None:
    write_nvcc(tmp_path, "13.0")
    assert Toolkit(tmp_path, "13.0", from_pip=False).lacks("13.0") == (
        f"{tmp_path} lacks cuda_runtime.h of the runtime, cublas_v2.h of cuBLAS and 5 more"
    )


def test_packages_that_make_no_complete_toolkit_are_refused(bare: Path) -> None:
    with pytest.raises(
        MissingDependencyError, match=r"not make a complete toolkit: .*curand\.h of cuRAND"
    ):
        require_toolkit("13.0", lambda command: write_toolkit(bare, "13.0", "curand.h") and None)


def test_cuda_12_needs_the_systems_toolkit(bare: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"CUDA toolkit 12\.8: install it"):
        require_toolkit("12.8", no_pip)


def test_the_usual_place_is_looked_at(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolkits, "USUAL_PLACE", write_toolkit(tmp_path / "usual", "13.0"))
    assert [toolkit.home for toolkit in system_toolkits(os.environ)] == [tmp_path / "usual"]


def test_linker_and_compilers_find_what_pip_installed(tmp_path: Path) -> None:
    home = write_toolkit(tmp_path / "cu13", "13.0")
    (home / "lib").mkdir()
    for name in ("libcublas.so.13", "libcurand.so.10", "notes.txt"):
        (home / "lib" / name).touch()
    toolkit = Toolkit(home, "13.0", from_pip=True)
    links = library_links(toolkit, tmp_path / "cache")
    assert library_links(toolkit, tmp_path / "cache") == links
    assert {link.name: link.readlink() for link in links.iterdir()} == {
        "libcublas.so": home / "lib" / "libcublas.so.13",
        "libcurand.so": home / "lib" / "libcurand.so.10",
    }
    other = library_links(Toolkit(tmp_path / "cu14", "14.0", from_pip=True), tmp_path / "cache")
    assert other != links
    environment = toolkit_environment(toolkit, links, {"PATH": "/usr/bin", "CPATH": "/mine"})
    assert environment == {
        "CUDA_HOME": str(home),
        "CUDA_PATH": str(home),
        "PATH": f"{home / 'bin'}:/usr/bin",
        "CPATH": f"{home / 'include' / 'cccl'}:{home / 'include'}:/mine",
        "LIBRARY_PATH": str(links),
    }
