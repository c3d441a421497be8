"""Exports that named code bases load: the tensors they build, or a refusal with the settings."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import p2pkit
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import write_json
from p2pkit.networks import build_student, load_student_weights
from p2pkit.networks.ptv3 import SMALL
from p2pkit.networks.serialization import ORDERS
from p2pkit.networks.students import PTV3_SIZES
from p2pkit.pipelines.export import BUILT, ExportConfig, run
from p2pkit.pipelines.train.checkpoints import save_checkpoint
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import read_config, read_provenance
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_to_json
from p2pkit.settings.stream import Input


def with_settings(tiny_run: Path, out: Path, config: TrainConfig) -> Path:
    """A run of these settings with random weights; what is exported does not depend on training."""
    shutil.copytree(tiny_run, out)
    shutil.rmtree(out / "checkpoints")
    config = replace(config, engine="torch")
    model = build_model(config, read_provenance(out).teacher_channels, seed=3)
    save_checkpoint(out, model, {}, step=1, keep=1)
    write_json(out / "config.json", config_to_json(config))
    return out


def changed(tiny_run: Path, out: Path, inputs: tuple[Input, ...], **changes: Any) -> Path:
    config = read_config(tiny_run)
    sample = replace(config.stream.sample, inputs=inputs)
    stream = replace(config.stream, sample=sample)
    return with_settings(tiny_run, out, replace(config, stream=stream, **changes))


@pytest.fixture(scope="module")
def slidr_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slidr") / "run"
    return with_settings(tiny_run, out, preset("slidr", "any.store"))


@pytest.fixture(scope="module")
def minkunet_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("minkunet") / "run"
    return changed(tiny_run, out, ("color",), conv1_kernel_size=5)


@pytest.mark.parametrize("projection", [False, True])
def test_slidrs_code_loads_its_preset_strictly(
    slidr_run: Path, published: Path, tmp_path: Path, projection: bool
) -> None:
    """Names and shapes are those of its network; without the projection all but the head's."""
    shapes = json.loads((published / "slidr_res16unet34c_shapes.json").read_text())
    file = run(ExportConfig(slidr_run, tmp_path / "s.pth", form="slidr", projection=projection))
    written = torch.load(file, weights_only=True)["model_points"]
    head = {"final.kernel", "final.bias"}
    expected = {k: shape for k, shape in shapes.items() if projection or k not in head}
    assert {name: list(value.shape) for name, value in written.items()} == expected
    network = build_student(
        "Res16UNet34C", in_channels=1, out_channels=64, conv1_kernel_size=3, engine="torch"
    )
    skip = () if projection else ("final.",)
    report = load_student_weights(network, str(file), skip=skip)
    assert not report.unexpected
    assert set(report.missing) == (set() if projection else head)


def test_slidrs_file_says_which_intensities_it_takes(slidr_run: Path, tmp_path: Path) -> None:
    file = run(ExportConfig(slidr_run, tmp_path / "s.pth", form="slidr"))
    found = p2pkit.load_pretrained(file, engine="torch")
    assert (found.inputs, found.intensity_scale) == (("intensity",), 255.0)
    assert (found.grid, found.cylindrical_size) == ("cylindrical", (0.1, 1.0, 0.1))


def test_containers_are_those_that_other_code_opens(
    tiny_run: Path, slidr_run: Path, minkunet_run: Path, tmp_path: Path
) -> None:
    runs = {"pointcontrast": tiny_run, "slidr": slidr_run, "minkunet": minkunet_run}
    opened = {
        form: torch.load(run(ExportConfig(folder, tmp_path / form, form=form)), weights_only=True)
        for form, folder in runs.items()
    }
    names = set(opened["minkunet"])
    assert set(opened["pointcontrast"]["state_dict"]) == names
    assert names <= set(opened["slidr"]["model_points"])
    assert {"conv0p1s1.kernel", "block1.0.norm1.bn.weight", "convtr4p16s2.kernel"} < names
    assert not any(name.startswith("final") for name in names)
    assert opened["pointcontrast"]["state_dict"]["conv0p1s1.kernel"].shape == (27, 3, 32)
    assert opened["minkunet"]["conv0p1s1.kernel"].shape == (125, 3, 32)


def test_a_bare_file_needs_the_json_beside_it(minkunet_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "student.pth"
    run(ExportConfig(minkunet_run, path, form="minkunet"))
    assert p2pkit.load_pretrained(path, engine="torch").inputs == ("color",)
    beside = tmp_path / "student.pth.json"
    beside.unlink()
    with pytest.raises(TrainingError, match=r"student\.pth\.json is missing beside it"):
        p2pkit.load_pretrained(path)
    path.unlink()
    beside.write_text("{}")
    with pytest.raises(ConfigError, match=r"student\.pth\.json already exists"):
        run(ExportConfig(minkunet_run, path, form="minkunet"))


@pytest.mark.parametrize(
    ("form", "inputs", "changes", "found", "settings"),
    [
        ("minkunet", ("color",), {}, "conv1_kernel_size=3", "--set conv1_kernel_size=5"),
        (
            "pointcontrast",
            ("color", "normal"),
            {"conv1_kernel_size": 5},
            r"conv1_kernel_size=5 and 6 input channels \(color, normal\)",
            r"""--set conv1_kernel_size=3 --set 'stream.sample.inputs=\["color"\]'""",
        ),
        (
            "slidr",
            ("color",),
            {},
            r"student=Res16UNet14A and 3 input channels \(color\)",
            r"""--set student=Res16UNet34C --set 'stream.sample.inputs=\["intensity"\]'""",
        ),
    ],
)
def test_a_network_that_the_code_does_not_build_is_refused_with_the_settings(
    tiny_run: Path,
    tmp_path: Path,
    form: str,
    inputs: tuple[Input, ...],
    changes: dict[str, Any],
    found: str,
    settings: str,
) -> None:
    folder = changed(tiny_run, tmp_path / "run", inputs, **changes)
    message = f"--to {form} cannot load this run, which has {found}: train with {settings}, or "
    with pytest.raises(ConfigError, match=message):
        run(ExportConfig(folder, tmp_path / "x.pth", form=form))
    assert not (tmp_path / "x.pth").exists()
    assert form in BUILT


def test_a_transformers_file_says_what_no_shape_shows(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(tiny_run, tmp_path / "run", ("color",), student="PTv3-small")
    file = run(ExportConfig(folder, tmp_path / "s.safetensors"))
    about = p2pkit.load_pretrained(file, engine="torch").about["ptv3"]
    assert (about["dec_heads"], about["dec_depths"]) == ([4, 4, 8, 16], [1, 1, 1, 1])
    assert (about["orders"], about["patch_size"]) == (list(ORDERS), 1024)
    monkeypatch.setitem(PTV3_SIZES, "PTv3-small", replace(SMALL, dec_heads=(4, 4, 8, 32)))
    with pytest.raises(TrainingError, match=r"of a PTv3-small of another form: it has .*8, 16\]"):
        p2pkit.load_pretrained(file, engine="torch")


@pytest.mark.parametrize(
    ("inputs", "up", "advised"),
    [
        (("color", "colored"), [0.0, 0.0, 1.0], "position"),
        (("intensity",), [0.0, 0.0, 1.0], "position"),
        (("color", "normal"), [0.0, 0.0, 1.0], "color"),
        (("normal", "range"), [0.0, -1.0, 0.0], "color"),
    ],
    ids=["painted sweeps", "sweeps", "fused frames", "depth frames"],
)
def test_three_inputs_are_advised_that_stay_three(
    tiny_run: Path, tmp_path: Path, inputs: tuple[Input, ...], up: list[float], advised: str
) -> None:
    """With sweeps `color` brings `colored`, so that the advised run would have four channels."""
    folder = changed(tiny_run, tmp_path / "run", inputs)
    use = json.loads((folder / "store.json").read_text())
    write_json(folder / "store.json", use | {"up_axis": up})
    said = rf"inputs=\[\"{advised}\"\]', or export it with --to safetensors"
    with pytest.raises(ConfigError, match=said):
        run(ExportConfig(folder, tmp_path / "x.pth", form="pointcontrast"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"embedding_channels": 32},
            "has 32 embedding channels: train with --set embedding_channels=64, or",
        ),
        (
            {"pixel_head": "fixed"},
            r"has \d+ embedding channels of a fixed pixel head: train with --set "
            "pixel_head=trained --set embedding_channels=64, or",
        ),
    ],
)
def test_slidrs_head_has_its_width(
    slidr_run: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    config = replace(read_config(slidr_run), **changes)
    folder = with_settings(slidr_run, tmp_path / "run", config)
    run(ExportConfig(folder, tmp_path / "s.pth", form="slidr"))
    with pytest.raises(ConfigError, match=said):
        run(ExportConfig(folder, tmp_path / "p.pth", form="slidr", projection=True))
