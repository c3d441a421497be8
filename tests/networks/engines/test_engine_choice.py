"""`engine=auto`: MinkowskiEngine where it works, else torch, and why."""

import sys
from types import SimpleNamespace

import pytest

from p2pkit.errors import ConfigError, MissingDependencyError
from p2pkit.networks import EngineChoice, build_student, choose_engine
from p2pkit.networks.engines.sparse_engine import sparse_engine
from p2pkit.networks.engines.torch_engine import TorchEngine


def test_a_named_engine_is_kept_also_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    assert choose_engine("minkowski") == EngineChoice("minkowski")
    with pytest.raises(MissingDependencyError, match="doctor --install minkowski"):
        build_student("Res16UNet14A", in_channels=3, engine="minkowski")


def test_auto_takes_torch_where_minkowski_engine_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    choice = choose_engine("auto")
    assert choice.name == "torch"
    assert choice.reason == (
        "MinkowskiEngine is not installed; `p2pkit doctor --install minkowski` adds it"
    )
    assert isinstance(sparse_engine("auto"), TorchEngine)
    assert build_student("Res16UNet14A", in_channels=3).out_channels == 96


@pytest.mark.parametrize(
    ("has_cuda", "device", "name"),
    [
        (False, "cpu", "minkowski"),
        (True, "cpu", "minkowski"),
        (True, "cuda:1", "minkowski"),
        (False, "cuda", "torch"),
    ],
)
def test_a_cpu_build_is_not_taken_for_a_gpu(
    has_cuda: bool, device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SimpleNamespace(is_cuda_available=lambda: has_cuda)
    # The package names a function like its module, which a dotted name would find first.
    module = sys.modules["p2pkit.networks.engines.sparse_engine"]
    monkeypatch.setattr(module, "minkowski_engine", lambda: engine)
    choice = choose_engine("auto", device)
    assert choice.name == name
    assert ("--cuda" in choice.reason) == (name == "torch")


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="'spconv'; choose one of auto, minkowski, torch"):
        choose_engine("spconv")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_for_the_torch_engine(precision: str) -> None:
    choice = choose_engine("auto", precision=precision)
    assert choice == EngineChoice("torch", f"MinkowskiEngine does not compute in {precision}")
    assert choose_engine("torch", precision=precision) == EngineChoice("torch")
    with pytest.raises(ConfigError, match=rf"precision is '{precision}'.* use engine=torch"):
        choose_engine("minkowski", precision=precision)
