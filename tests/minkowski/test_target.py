from dataclasses import replace
from pathlib import Path

import pytest

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.target import (
    DEFAULT_CUDA_ARCHITECTURES,
    BuildTarget,
    current_target,
    find_blas,
    recipe_digest,
)

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


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        (None, [(9, 0), (8, 6), (9, 0)], "8.6;9.0"),
        ("7.5", [(9, 0)], "7.5"),
        (None, [], DEFAULT_CUDA_ARCHITECTURES),
    ],
)
def test_architectures_are_those_asked_for_or_of_the_visible_gpus(
    asked: str | None,
    gpus: list[tuple[int, int]],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    if asked is not None:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    target = current_target(cuda=True)
    assert (target.cuda, target.cuda_architectures) == ("13.0", expected)


def test_a_torch_without_blas_needs_openblas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("p2pkit.minkowski.target._has_system_openblas", lambda: False)
    with pytest.raises(MissingDependencyError, match="libopenblas-dev"):
        find_blas(tmp_path / "libtorch_cpu.so")
    monkeypatch.setattr("p2pkit.minkowski.target._has_system_openblas", lambda: True)
    assert find_blas(tmp_path / "libtorch_cpu.so") == "openblas"
