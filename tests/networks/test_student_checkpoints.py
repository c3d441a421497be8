import argparse
import re

import pytest
import torch
from safetensors.torch import save_file

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.networks import build_student, load_pretrained, load_student_weights


def student(out_channels: int | None = None, **settings):
    return build_student(
        "Res16UNet14A",
        in_channels=settings.pop("in_channels", 3),
        out_channels=out_channels,
        conv1_kernel_size=settings.pop("kernel", 3),
    )


@pytest.fixture(scope="module")
def published():
    """A state_dict with the published layout, `final` for 20 classes included, random values."""
    state = student(20).state_dict()
    return {
        name: torch.randn(value.shape) if value.is_floating_point() else value + 5
        for name, value in state.items()
    }


def same(target, weights) -> bool:
    state = target.state_dict()
    return all(torch.equal(state[k], weights[k]) for k in state if not k.startswith("final."))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model_points": {f"module.{k}": v for k, v in w.items()}, "config": {"a": 1}},
        lambda w: {"model": {"state_dict": w}},
    ],
    ids=["bare", "state_dict", "model_points", "nested"],
)
def test_containers_of_published_files_are_opened(tmp_path, published, wrap):
    torch.save(wrap(published), tmp_path / "weights.pth")
    target = student()
    report = load_student_weights(target, tmp_path / "weights.pth")
    assert same(target, published)
    assert report.missing == ()
    assert report.unexpected == ("final.bias", "final.kernel")
    assert len(report.loaded) == len(published) - 2


def test_the_running_mean_is_taken_and_the_report_says_so(tmp_path, published):
    raw = {k: torch.zeros_like(v) for k, v in published.items()}
    content = {"state_dict": raw, "state_dict_ema": published, "ema": {"decay": 0.99}}
    content |= {"args": argparse.Namespace(lr=0.1)}
    torch.save(content, tmp_path / "weights.pth")
    target = student()
    report = load_student_weights(target, str(tmp_path / "weights.pth"))
    assert same(target, published)
    assert report.origin == "state_dict_ema, not state_dict"
    assert str(report) == (
        f"LoadReport: {len(published) - 2} loaded from state_dict_ema, not state_dict, 0 missing, "
        "2 unexpected (final.bias, final.kernel)"
    )


def test_a_report_shows_counts_and_the_first_names(published):
    partial = {k: v for k, v in published.items() if not k.startswith("block8")}
    report = load_student_weights(student(), partial, strict=False)
    shown = repr(report)
    assert f"{len(report.missing)} missing (block8.0.conv1.kernel, " in shown
    assert f" and {len(report.missing) - 3} more)" in shown
    assert len(shown) < 300


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MinkUNet34C", "Res16UNet34C"),
        ("minkunet14a", "Res16UNet14A"),
        ("res16unet18a", "Res16UNet18A"),
    ],
)
def test_students_of_other_names_are_suggested(name, meant):
    with pytest.raises(ConfigError, match=rf"{name!r} \(did you mean {meant}\?\)"):
        build_student(name, in_channels=3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("w.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
        ("w.safetensors", b"PK\x03\x04", "truncated, damaged"),
    ],
)
def test_other_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for load in (lambda: load_student_weights(student(), path), lambda: load_pretrained(path)):
        with pytest.raises(TrainingError, match=message) as error:
            load()
        assert "\n" not in str(error.value)


def test_a_file_that_does_not_say_what_it_is_names_the_way_out(tmp_path, published):
    torch.save({"state_dict": published}, tmp_path / "a.pth")
    save_file(published, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        with pytest.raises(TrainingError, match="fill it with load_student_weights"):
            load_pretrained(path)


def test_safetensors_round_trip(tmp_path, published):
    save_file(published, tmp_path / "weights.safetensors")
    target = student()
    load_student_weights(target, tmp_path / "weights.safetensors")
    assert same(target, published)


def test_prefix_selects_one_network_of_a_file(published):
    mixed = {f"student.{k}": v for k, v in published.items()} | {"head.weight": torch.zeros(1)}
    target = student()
    assert load_student_weights(target, mixed, prefix="student.").missing == ()
    assert same(target, published)


def test_final_of_another_task_is_left_out_and_reported(published):
    target = student(13)
    before = target.state_dict()["final.kernel"].clone()
    report = load_student_weights(target, published)
    assert report.missing == ("final.bias", "final.kernel")
    assert torch.equal(target.state_dict()["final.kernel"], before)


def test_final_is_loaded_when_it_is_not_skipped(published):
    target = student(20)
    report = load_student_weights(target, published, skip=())
    assert report.missing == report.unexpected == ()
    assert torch.equal(target.state_dict()["final.kernel"], published["final.kernel"])
    with pytest.raises(TrainingError, match=r"final.bias is \(1, 20\) .* \(1, 13\) here"):
        load_student_weights(student(13), published, skip=())


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"in_channels": 6}, "in_channels=3 and conv1_kernel_size=3"),
        ({"kernel": 5}, "in_channels=3 and conv1_kernel_size=3"),
    ],
)
def test_another_first_convolution_names_both_shapes_and_the_cure(published, settings, advice):
    target = student(**settings)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(TrainingError, match=re.escape("conv0p1s1.kernel is (27, 3, 32)")) as error:
        load_student_weights(target, published)
    assert advice in str(error.value)
    assert same(target, before), "a refused checkpoint must leave the student as it was"


def test_absent_and_additional_names_are_errors_unless_told_otherwise(published):
    partial = {k: v for k, v in published.items() if not k.startswith("block8")}
    partial["extra.weight"] = torch.zeros(2)
    with pytest.raises(TrainingError, match=r"absent block8.* additional extra\.weight"):
        load_student_weights(student(), partial)
    report = load_student_weights(student(), partial, strict=False)
    assert "block8.0.conv1.kernel" in report.missing
    assert "extra.weight" in report.unexpected


def test_a_checkpoint_of_something_else_is_refused_even_when_not_strict():
    with pytest.raises(TrainingError, match="no parameter of the student"):
        load_student_weights(student(), {"layer1.weight": torch.zeros(1)}, strict=False)


def test_code_in_a_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match="could run code"):
        load_student_weights(student(), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_cut_and_absent_files_are_named(tmp_path, published, name):
    path = tmp_path / name
    with pytest.raises(TrainingError, match="cannot be read"):
        load_student_weights(student(), path)
    if name.endswith("safetensors"):
        save_file(published, path)
    else:
        torch.save(published, path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(TrainingError, match=re.escape(str(path))):
        load_student_weights(student(), path)
    path.write_bytes(b"")
    with pytest.raises(TrainingError, match=re.escape(str(path))):
        load_student_weights(student(), path)
