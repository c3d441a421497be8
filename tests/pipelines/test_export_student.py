"""An exported student is the run's, in every form, and fits the published networks' names."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from tiny_recording import tiny_train_config

import p2pkit
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.networks import build_student, load_student_weights
from p2pkit.pipelines.export import BUILDS, FORMS, ExportConfig, check_form, run
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.model import WEIGHTS, build_model, load_weights
from p2pkit.pipelines.train.run_folder import read_config, read_provenance
from p2pkit.settings.students import WaffleIronConfig

OF_RES16UNETS = ("safetensors", "pointcontrast")
"""Forms that a first kernel of 3 and three inputs fit; the others are in test_loadable_exports."""


@pytest.fixture(scope="module", params=["minkowski", "torch"])
def pretrained(
    request: pytest.FixtureRequest, room_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    config = tiny_train_config(room_store, steps=1, engine=request.param)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


def whole_model(folder: Path) -> Any:
    config = read_config(folder)
    model = build_model(config, read_provenance(folder).teacher_channels, seed=9)
    load_weights(model, latest_checkpoint(folder).path)
    return model.eval()


@pytest.mark.parametrize("form", OF_RES16UNETS)
def test_each_form_comes_back_to_the_bit(pretrained: Path, tmp_path: Path, form: Any) -> None:
    suffix = "safetensors" if form == "safetensors" else "pth"
    file = run(ExportConfig(pretrained, tmp_path / f"student.{suffix}", form=form))
    config = read_config(pretrained)
    student = build_student(
        config.student, in_channels=3, conv1_kernel_size=config.conv1_kernel_size
    )
    report = load_student_weights(student, file)
    assert not report.missing
    assert not report.unexpected
    expected = whole_model(pretrained).student.state_dict()
    torch.testing.assert_close(student.state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("form", OF_RES16UNETS)
def test_any_form_is_a_ready_student_in_one_call(
    pretrained: Path, tmp_path: Path, form: Any, projection: bool
) -> None:
    path = tmp_path / "student.file"
    run(ExportConfig(pretrained, path, form=form, projection=projection))
    found = p2pkit.load_pretrained(str(path), engine="torch")
    config, model = read_config(pretrained), whole_model(pretrained)
    expected = model.student.state_dict()
    state = found.student.state_dict()
    torch.testing.assert_close({name: state[name] for name in expected}, expected, rtol=0, atol=0)
    assert ("final.kernel" in state) is projection
    assert not found.student.training
    assert found.inputs == ("color",)
    assert found.voxel_size_m == config.stream.sample.voxel_size
    assert found.up_axis == read_provenance(pretrained).stores[0].up_axis
    assert found.about["student"] == config.student


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"), (b"", "is empty")],
)
def test_a_damaged_checkpoint_is_one_line_and_nothing_is_written(
    pretrained: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    folder = shutil.copytree(pretrained, tmp_path / "run")
    (latest_checkpoint(folder).path / WEIGHTS).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        run(ExportConfig(folder, tmp_path / "student.safetensors"))
    assert not (tmp_path / "student.safetensors").exists()


def test_the_projection_is_the_layer_final(pretrained: Path, tmp_path: Path) -> None:
    config = ExportConfig(pretrained, tmp_path / "student.safetensors", projection=True)
    file = run(config)
    train_config = read_config(pretrained)
    student = build_student(
        train_config.student,
        in_channels=3,
        out_channels=train_config.embedding_channels,
        conv1_kernel_size=train_config.conv1_kernel_size,
    ).eval()
    load_student_weights(student, file, skip=())
    model = whole_model(pretrained)
    coordinates = torch.cartesian_prod(*[torch.arange(6)] * 3).int()
    coordinates = torch.nn.functional.pad(coordinates, (1, 0))
    inputs = torch.rand(len(coordinates), 3)
    with torch.inference_mode():
        found = torch.nn.functional.normalize(student(coordinates, inputs), dim=1)
        expected = model.point_projection(model.student(coordinates, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_file_says_what_it_is(pretrained: Path, tmp_path: Path) -> None:
    file = run(ExportConfig(pretrained, tmp_path / "student.safetensors"))
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["p2pkit"])
    assert (about["student"], about["in_channels"], about["step"]) == ("Res16UNet14A", 3, 1)
    assert about["voxel_size_m"] == 0.15
    assert about["fingerprints"] == [read_provenance(pretrained).stores[0].fingerprints]


def test_nothing_is_written_over(pretrained: Path, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(pretrained),
        "--to",
        "pointcontrast",
        "--out",
        str(tmp_path / "s.pth"),
    ]
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 0
    assert done.output.strip() == str(tmp_path / "s.pth")
    again = CliRunner().invoke(commands, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "exists" in str(again.exception)
    with pytest.raises(ConfigError, match="choose one of safetensors, pointcontrast"):
        ExportConfig(pretrained, tmp_path / "x", form=cast("Any", "spconv"))


LARGE = pytest.mark.slow
CODE_BASES = [
    ("SpUNet", "pointcept", "spunet_v1m1", "state_dict"),
    pytest.param("PTv3", "pointcept", "ptv3_encdec", "state_dict", marks=LARGE),
    pytest.param("PTv3-encoder", "pointcept", "ptv3_sonata_enc", "state_dict", marks=LARGE),
    pytest.param("WaffleIron-48-768", "waffleiron", "waffleiron_48_768", "net", marks=LARGE),
]
HEADS = ("final.", "classif.")
INPUTS = {
    "conv_input.0.weight": -1,
    "embedding.stem.linear.weight": 1,
    "embed.conv1.weight": 1,
}
"""The first layer of each network, and the axis of its input channels."""


@pytest.mark.parametrize(("student", "form", "facts", "container"), CODE_BASES)
def test_files_for_other_code_have_its_names_and_shapes(
    student: str, form: Any, facts: str, container: str, published: Path, tmp_path: Path
) -> None:
    """Of the networks that the code builds; the weights are random, training does not matter."""
    shapes = json.loads((published / f"{facts}_shapes.json").read_text())
    channels = next(shapes[name][axis] for name, axis in INPUTS.items() if name in shapes)
    state = build_student(student, in_channels=channels, engine="torch").state_dict()
    path = tmp_path / "student.pth"
    path.write_bytes(FORMS[form](state, {"student": student}))
    written = torch.load(path, weights_only=True)[container]
    expected = {name: shape for name, shape in shapes.items() if not name.startswith(HEADS)}
    assert {name: list(value.shape) for name, value in written.items()} == expected
    back = build_student(student, in_channels=channels, engine="torch")
    report = load_student_weights(back, path)
    assert (report.missing, report.unexpected) == ((), ())
    torch.testing.assert_close(back.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("student", "form"),
    [("SpUNet", "pointcept"), ("PTv3-small", "pointcept"), ("WaffleIron-12-256", "waffleiron")],
)
def test_a_run_of_each_kind_comes_back_with_its_projection(
    student: str, form: Any, room_store: Path, tmp_path: Path
) -> None:
    seen = WaffleIronConfig(fov=(-4.0, -4.0, -4.0, 4.0, 4.0, 4.0), cells=(9, 8, 7), norm="layer")
    config = tiny_train_config(
        room_store, steps=1, student=student, conv1_kernel_size=5, engine="torch"
    )
    folder = train.run(replace(config, waffleiron=seen), tmp_path / "run")
    out = run(ExportConfig(folder, tmp_path / "student.pth", form=form, projection=True))
    read = p2pkit.load_pretrained(out, engine="torch")
    model = whole_model(folder)
    expected, state = model.student.state_dict(), read.student.state_dict()
    torch.testing.assert_close({name: state[name] for name in expected}, expected, rtol=0, atol=0)
    voxels = torch.cartesian_prod(*[torch.arange(6)] * 3).int()
    points = (voxels.numpy() * 0.15).astype(np.float32)
    prepared = read.prepared([(points, voxels.numpy())])
    coordinates, inputs = torch.nn.functional.pad(voxels, (1, 0)), torch.rand(len(voxels), 3)
    with torch.inference_mode():
        found = torch.nn.functional.normalize(read.student(coordinates, inputs, **prepared), dim=1)
        embedded = model.point_projection(model.student(coordinates, inputs, **prepared))
    torch.testing.assert_close(found, embedded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "form", "right"),
    [
        ("Res16UNet14A", "pointcept", "safetensors or pointcontrast or slidr or minkunet"),
        ("SpUNet", "waffleiron", "safetensors or pointcept"),
        ("PTv3-small", "slidr", "safetensors or pointcept"),
        ("WaffleIron-12-256", "pointcept", "safetensors or waffleiron"),
    ],
)
def test_a_form_of_another_network_is_refused_with_those_that_fit(
    student: str, form: Any, right: str
) -> None:
    with pytest.raises(ConfigError, match=f"not {student}: export it with --to {right}"):
        check_form(form, student)
    assert BUILDS.keys() == FORMS.keys()


@pytest.mark.slow
def test_what_a_transformer_drops_depends_on_the_step_alone(
    room_store: Path, tmp_path: Path
) -> None:
    config = tiny_train_config(room_store, steps=2, student="PTv3-small", engine="torch")
    whole = train.run(config, tmp_path / "whole")
    parts = train.run(config, tmp_path / "parts", stop_after=1)
    train.resume(parts)
    files = [latest_checkpoint(folder).path / WEIGHTS for folder in (whole, parts)]
    assert len({file.read_bytes() for file in files}) == 1
