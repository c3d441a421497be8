import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from p2pkit.errors import TeacherError
from p2pkit.teachers import Teacher, TeacherOptions, open_teacher

USE = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "stride": 8, "offset": 3.5}


def patches() -> nn.Module:
    """Patches of 8 px, so the first centre is at 3.5 px, and a layer on each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 12, 8, stride=8), nn.GELU(), nn.Conv2d(12, 6, 1)).eval()


def saved(folder: Path, network: nn.Module, **use: Any) -> Path:
    path = folder / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network).save(str(path))
    (folder / "network.pt.json").write_text(json.dumps({**USE, **use}))
    return path


def opened(path: Path, **options: Any) -> Teacher:
    return open_teacher(TeacherOptions(name=f"torchscript:{path}", **options))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_file_gives_what_its_network_gives(tmp_path: Path) -> None:
    network, image = patches(), noise(40, 56)
    teacher = opened(saved(tmp_path, network))
    grid = teacher.grid((56, 40))
    assert (grid.stride, grid.offset, grid.cells) == ((8.0, 8.0), (3.5, 3.5), (7, 5))
    pixels = (torch.from_numpy(image).double() / 255 - torch.tensor(USE["mean"])) / (
        torch.tensor(USE["std"])
    )
    with torch.inference_mode():
        expected = network(pixels.float().permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    found = teacher.features([image])[0].astype(np.float32)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-3)
    assert teacher.channels == 6
    fingerprint = teacher.fingerprint()
    assert fingerprint["name"] == "torchscript:network.pt"
    assert fingerprint["preprocessing"]["interpolation"] == "bilinear"


def test_a_file_computes_in_half_precision_but_is_not_compiled(tmp_path: Path) -> None:
    path, image = saved(tmp_path, patches()), noise(40, 56)
    whole, half = (opened(path, precision=x).features([image]) for x in ("float32", "bfloat16"))
    assert not np.array_equal(half, whole)
    np.testing.assert_allclose(half.astype(np.float32), whole.astype(np.float32), atol=2e-2)
    with pytest.raises(TeacherError, match=r"compile is True .* omit compile$"):
        opened(path, compile=True)


@pytest.mark.parametrize("offset", [27.5, 7.5, -0.5])
def test_a_wrong_declared_grid_is_refused(tmp_path: Path, offset: float) -> None:
    """By cells or by half a cell; half of one stands where the file says that it is known."""
    teacher = opened(saved(tmp_path, patches(), offset=offset))
    with pytest.raises(TeacherError, match=rf"declares the first centre at {offset} px .* as if"):
        teacher.grid((56, 56))
    teacher = opened(saved(tmp_path, patches(), offset=offset, trust_offset=True))
    if offset > 8:
        with pytest.raises(TeacherError, match=r"the measured grid .* is wrong"):
            teacher.grid((56, 56))
    else:
        assert teacher.grid((56, 56)).offset == (offset, offset)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("mean", [0, 0, None]),
        ("mean", [0, "a", 0]),
        ("std", [0, 1, 1]),
        ("std", [1, 1, float("nan")]),
        ("offset", float("nan")),
        ("stride", True),
    ],
)
def test_numbers_that_make_no_sense_are_named(entry: str, value: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, patches(), **{entry: value})
    with pytest.raises(TeacherError, match=rf"network\.pt\.json: {entry} is .*; expected"):
        opened(path)


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    path = saved(tmp_path, patches())
    for options in ({"layer": 2}, {"final_norm": "all"}, {"final_norm": "none"}):
        with pytest.raises(TeacherError, match="do not apply"):
            opened(path, **options)
    saved(tmp_path, patches(), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    with pytest.raises(TeacherError, match=r"mean \[123\.675, .* divide both by 255"):
        opened(path)
    saved(tmp_path, patches(), interpolaton="bicubic")
    with pytest.raises(TeacherError, match="'interpolaton'; did you mean interpolation"):
        opened(path)
    saved(tmp_path, patches(), comment="")
    with pytest.raises(TeacherError, match="'comment'; the entries are mean, std"):
        opened(path)
    (tmp_path / "network.pt.json").write_text('{"mean": [0, 0, 0]}')
    with pytest.raises(TeacherError, match="lacks std, stride, offset"):
        opened(path)
    saved(tmp_path, patches(), interpolation="box")
    with pytest.raises(TeacherError, match="choose one of nearest"):
        opened(path)
    saved(tmp_path, patches(), stride="8")
    with pytest.raises(TeacherError, match="expected a number"):
        opened(path)
    saved(tmp_path, patches(), trust_offset="yes")
    with pytest.raises(TeacherError, match="trust_offset is 'yes'; expected true or false"):
        opened(path)
    saved(tmp_path, patches(), mean=[0.5])
    with pytest.raises(TeacherError, match="three numbers"):
        opened(path)
    (tmp_path / "network.pt.json").unlink()
    with pytest.raises(TeacherError, match=r"network\.pt\.json cannot be read"):
        opened(path)
    saved(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5)))
    with pytest.raises(TeacherError, match=r"expected a map .*found"):
        opened(path)
    path.write_bytes(b"no network")
    with pytest.raises(TeacherError, match="cannot be read"):
        opened(path)


class WithUnused(nn.Module):
    """Patches, and a layer that nothing reads."""

    def __init__(self, unused: float) -> None:
        super().__init__()
        self.patches = patches()
        self.unused = nn.Linear(2, 2)
        nn.init.constant_(self.unused.weight, unused)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.patches(images)


def test_identity_is_the_program_and_the_tensors_that_it_reads(tmp_path: Path) -> None:
    def digest(network: nn.Module, *, frozen: bool = False) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = saved(folder, network)
        if frozen:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.jit.freeze(torch.jit.load(str(path))).save(str(path))
        return opened(path).weights_sha256

    other = patches()
    other[0].weight.data += 1
    assert digest(WithUnused(1.0)) == digest(WithUnused(2.0))
    assert digest(patches()) == digest(patches()) != digest(other)
    # A frozen file has no tensors but those in its program.
    assert digest(patches(), frozen=True) != digest(other, frozen=True)
    activated = nn.Sequential(patches()[0], nn.ReLU(), patches()[2]).eval()
    assert digest(activated) != digest(patches())


def test_a_map_that_is_drawn_at_random_is_refused(tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = patches()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.patches(images * torch.rand_like(images))

    with pytest.raises(TeacherError, match="another map for the same image each time"):
        opened(saved(tmp_path, Noisy()))
