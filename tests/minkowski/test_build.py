"""The inputs of the build, and the shim header compiled for real."""

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.build import (
    build_environment,
    first_error,
    require_build_tools,
    requirement,
)
from p2pkit.minkowski.target import current_target, shim_folder

PRODUCT = """
#include <cblas.h>
#include <cstdio>
int main() {
  const double a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1};
  double row[4] = {}, column[4] = {};
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2, 2, 3, 1.0, a, 3, b, 2, 0.0, row, 2);
  cblas_dgemm(CblasColMajor, CblasTrans, CblasTrans, 2, 2, 3, 1.0, a, 3, b, 2, 0.0, column, 2);
  cblas_daxpy(4, 10.0, row, 1, column, 1);
  for (double value : row) std::printf("%g ", value);
  for (double value : column) std::printf("%g ", value);
}
"""


def test_requirement_pins_version_variant_and_archive() -> None:
    target = current_target(cuda=False)
    line = requirement(target)
    assert line.startswith("MinkowskiEngine==0.5.4 ")
    assert "--global-option=--cpu_only" in line
    assert "--hash=sha256:" in line
    assert "--global-option=--force_cuda" in requirement(replace(target, cuda="12.8"))


def test_environment_puts_the_harmless_pip_first_and_keeps_the_callers(tmp_path: Path) -> None:
    target = replace(current_target(cuda=False), blas="torch")
    environment = build_environment(target, tmp_path, {"PATH": "/usr/bin", "HOME": "/nowhere"})
    assert environment["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin")
    assert environment["PATH"].endswith("/usr/bin")
    assert environment["HOME"] == "/nowhere"
    assert f"-I{shim_folder()}" in environment["CPPFLAGS"]
    assert "CFLAGS" not in environment
    assert int(environment["MAX_JOBS"]) >= 1
    system = build_environment(replace(target, blas="openblas"), tmp_path, {})
    assert "LDFLAGS" not in system
    assert str(shim_folder()) not in system["CPPFLAGS"]


def test_cuda_environment_includes_the_shim_before_each_source(tmp_path: Path) -> None:
    target = replace(current_target(cuda=False), cuda="12.8", cuda_architectures="9.0")
    environment = build_environment(target, tmp_path, {"CUDA_HOME": "/cuda"})
    assert "-I/cuda/include/cccl" in environment["NVCC_PREPEND_FLAGS"]
    assert f"-include {shim_folder() / 'nvcc_shim.h'}" in environment["NVCC_PREPEND_FLAGS"]
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["compiling a.cu", "a.h:9:10: fatal error: cublas_v2.h: No such file", "error: late"],
            "cublas_v2.h: No such file",
        ),
        (["/usr/bin/ld: cannot find -lcublas"], "-lcublas"),
        (["Killed", ""], "Killed"),
        ([], "no output"),
    ],
)
def test_the_first_error_of_a_log_is_found(lines: list[str], expected: str) -> None:
    assert first_error(lines) == expected


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependencyError, match="apt-get install -y g"):
        require_build_tools()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_shim_header_multiplies_with_torchs_blas(tmp_path: Path) -> None:
    """Both storage orders and the sum of vectors, through libtorch's own BLAS."""
    source, program = tmp_path / "product.cpp", tmp_path / "product"
    source.write_text(PRODUCT)
    library = Path(torch.__file__).parent / "lib"
    command = f"c++ -I{shim_folder()} {source} -o {program} -L{library} -ltorch_cpu -lc10"
    flags = f"-Wl,-rpath,{library} -Wl,--allow-shlib-undefined -Wl,--no-as-needed"
    subprocess.run(shlex.split(f"{command} {flags}"), check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    a = torch.arange(1.0, 7.0).view(2, 3)
    b = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # Read by columns, the buffers are Aᵀ and Bᵀ; transposed they give A B again, kept by columns.
    row, column = (a @ b).flatten(), (a @ b).t().flatten()
    found = torch.tensor([float(value) for value in done.stdout.split()])
    torch.testing.assert_close(found, torch.cat([row, column + 10 * row]))
