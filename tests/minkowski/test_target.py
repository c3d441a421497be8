from dataclasses import replace
from pathlib import Path

import pytest

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.target import BuildTarget, current_target, find_blas, recipe_digest

TARGET = BuildTarget(
    engine="0.5.4",
    torch="2.13.0+cpu",
    python="cp311",
    platform="linux-x86_64",
    cuda=None,
    cuda_architectures="",
    blas="torch",
    recipe="0" * 64,
)


def test_equal_targets_share_a_key() -> None:
    assert replace(TARGET).cache_key() == TARGET.cache_key()


@pytest.mark.parametrize(
    "change",
    [
        {"engine": "0.5.5"},
        {"torch": "2.13.0"},
        {"python": "cp312"},
        {"platform": "linux-aarch64"},
        {"cuda": "13.0"},
        {"cuda_architectures": "9.0"},
        {"blas": "openblas"},
        {"recipe": "1" * 64},
    ],
)
def test_each_field_changes_the_key(change: dict[str, str]) -> None:
    assert replace(TARGET, **change).cache_key() != TARGET.cache_key()


def test_current_target_is_stable_and_knows_the_recipe() -> None:
    target = current_target(cuda=False)
    assert target == current_target(cuda=False)
    assert target.recipe == recipe_digest()
    assert target.cuda is None


def test_a_cuda_build_is_refused_without_a_cuda_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MissingDependencyError, match="needs a torch built with CUDA"):
        current_target(cuda=True)


def test_a_cuda_build_is_refused_without_nvcc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"nvcc 13\.0"):
        current_target(cuda=True)


def test_a_torch_without_blas_needs_openblas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("p2pkit.minkowski.target._has_system_openblas", lambda: False)
    with pytest.raises(MissingDependencyError, match="libopenblas-dev"):
        find_blas(tmp_path / "libtorch_cpu.so")
    monkeypatch.setattr("p2pkit.minkowski.target._has_system_openblas", lambda: True)
    assert find_blas(tmp_path / "libtorch_cpu.so") == "openblas"
