import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from p2pkit.datasets.registry import DATASETS
from p2pkit.errors import ConfigError
from p2pkit.losses import LOSSES
from p2pkit.networks.students import STUDENTS
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import (
    Location,
    choices,
    config_from_json,
    config_to_json,
    merged_tables,
    nearest,
    nested,
    settings_class,
    settings_in,
    with_settings,
)


@settings_class
class Inner:
    rate: float = 0.5
    kind: Literal["cosine", "constant"] = "constant"
    range: tuple[float, float] = (0.1, 10.0)
    batch_size: int = Field(default=4, ge=1, le=64)
    learning_rate: float = Field(default=0.1, gt=0)


@settings_class
class Outer:
    store: Path
    steps: int = Field(default=10, ge=1)
    name: str | None = None
    inner: Inner = Inner()
    table: Inner | None = None
    place: Location = "here"

    def __post_init__(self) -> None:
        if self.steps > 100 and self.name is None:
            raise ConfigError("steps above 100 need a name")


BASE = Outer(store=Path("rooms.store"))


@given(st.integers(1, 10**9), st.floats(allow_nan=False, allow_infinity=False), st.text())
def test_json_round_trip(steps: int, rate: float, name: str) -> None:
    config = Outer(Path("a/b"), steps=steps, name=name, inner=Inner(rate=rate, kind="cosine"))
    assert config_from_json(Outer, config_to_json(config)) == config


def test_absent_fields_keep_their_defaults() -> None:
    config = config_from_json(Outer, {"store": "x", "inner": {"rate": 2}})
    assert config == Outer(Path("x"), inner=Inner(rate=2.0))


def test_settings_reach_into_nested_configs_and_leave_the_rest() -> None:
    settings = ["steps=7", "inner.rate=1e-3", "inner.range=[0, 2]", "name=rooms", "name=null"]
    changed = with_settings(BASE, settings)
    assert changed == Outer(BASE.store, 7, None, Inner(0.001, "constant", (0.0, 2.0)))
    assert Outer(store=Path("rooms.store")) == BASE


def test_text_with_an_equals_sign_is_kept() -> None:
    assert with_settings(BASE, ["name=a=b"]).name == "a=b"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stepz=3", r"unknown setting 'stepz'; did you mean steps\?"),
        ("inner.ratee=3", r"setting 'inner.ratee'; did you mean inner.rate or table.rate\?"),
        ("batch_size=3", r"did you mean inner\.batch_size or table\.batch_size\?"),
        ("lr=3", r"did you mean inner\.learning_rate or table\.learning_rate\?"),
        ("qqq=3", "unknown setting 'qqq'; known settings: inner, name, place, steps, store, table"),
        ("steps.deep=3", r"steps is \{'deep': 3\}; should be a valid integer"),
        ("steps=many", "steps is 'many'; should be a valid integer"),
        ('steps="5"', "steps is '5'; should be a valid integer"),
        ("name=5", "name is 5; should be a valid string"),
        ("steps=1.5", "steps is 1.5; should be a valid integer"),
        ("inner.kind=cosin", "inner.kind is 'cosin'; choose one of cosine, constant"),
        ("inner=3", "inner is 3; must be a table of settings"),
        ("steps", "setting 'steps' has no value; write it as key=value"),
        ("steps=0", "steps is 0; must be at least 1"),
        ("steps=101", "steps above 100 need a name"),
        ("inner.batch_size=65", "inner.batch_size is 65; must be at most 64"),
        ("inner.learning_rate=0", "inner.learning_rate is 0; must be greater than 0"),
        ("inner.learning_rate=NaN", "inner.learning_rate is nan; must be finite"),
        ("store=3", "store is 3; "),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        with_settings(BASE, [setting])
    assert "\n" not in str(refused.value)


def test_objects_built_in_python_are_checked_as_those_read() -> None:
    wrong: dict[str, Any] = {"store": "x", "steps": 0}
    with pytest.raises(ConfigError, match=r"^steps is 0; must be at least 1$"):
        Outer(**wrong)
    with pytest.raises(ConfigError, match=r"^kind is 'no'; choose one of cosine, constant$"):
        Inner(1.0, *["no"])
    with pytest.raises(ConfigError, match=r"unknown setting 'stepz'; did you mean steps\?"):
        Outer(**{"store": "x", "stepz": 1})
    with pytest.raises(ConfigError, match="steps is 0"):
        dataclasses.replace(BASE, steps=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(BASE, "steps", 2)  # noqa: B010


def test_text_and_paths_stand_for_each_other() -> None:
    assert Outer(**{"store": "a/b"}).store == Path("a/b")
    assert Outer(Path("x"), place=Path("a/b")).place == "a/b"  # pyright: ignore[reportArgumentType]
    assert ExtractConfig(**{"dataset": "tum", "root": "r", "out": "o"}).out == Path("o")


def test_a_table_that_is_none_can_be_set() -> None:
    assert with_settings(BASE, ["table.batch_size=2"]).table == Inner(batch_size=2)


def test_pickled_and_copied() -> None:
    assert pickle.loads(pickle.dumps(BASE)) == BASE
    assert dataclasses.replace(BASE, steps=3) == Outer(BASE.store, 3)
    assert dataclasses.asdict(BASE)["inner"]["range"] == (0.1, 10.0)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("batch_size", ["stream.batch_size"]),
        ("batch-size", ["stream.batch_size"]),
        ("lr", ["optimizer.learning_rate"]),
        ("optimizer.learningrate", ["optimizer.learning_rate"]),
        ("stream.sample.batch_size", ["stream.batch_size"]),
        ("temprature", ["loss.temperature"]),
    ],
)
def test_the_nearest_dotted_name_is_named(name: str, meant: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {' or '.join(meant)}"):
        with_settings(TrainConfig(store="x"), [f"{name}=1"])


def test_nothing_is_near() -> None:
    assert nearest("qqq", ["steps", "inner.rate"]) == []


def test_settings_are_imported_without_heavy_libraries() -> None:
    modules = ("extract.settings", "train.settings", "evaluate.settings", "settings")
    code = "".join(f"import p2pkit.pipelines.{name}\n" for name in modules)
    code += "import sys; print([x for x in ('torch', 'numba', 'numpy') if x in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_dotted_names_become_tables_that_merge() -> None:
    over = nested({"inner.rate": 2.0, "steps": 3, "inner.deep.kind": "x"})
    assert over == {"inner": {"rate": 2.0, "deep": {"kind": "x"}}, "steps": 3}
    base = {"inner": {"rate": 1.0, "range": [0, 1]}, "name": "a"}
    assert merged_tables(base, over) == {
        "inner": {"rate": 2.0, "range": [0, 1], "deep": {"kind": "x"}},
        "name": "a",
        "steps": 3,
    }
    assert base == {"inner": {"rate": 1.0, "range": [0, 1]}, "name": "a"}


def test_a_name_out_of_a_table_is_told_its_place() -> None:
    with pytest.raises(
        ConfigError, match=r"setting 'rate'; did you mean inner\.rate or table\.rate\?"
    ):
        config_from_json(Outer, {"store": "x", "rate": 1})


def test_unknown_names_in_json_are_refused_at_every_level() -> None:
    with pytest.raises(ConfigError, match=r"'inner\.rat'; did you mean inner\.rate"):
        config_from_json(Outer, {"store": "x", "inner": {"rat": 1}})
    with pytest.raises(ConfigError, match=r"setting store"):
        config_from_json(Outer, {})


def test_paths_may_be_text() -> None:
    settings: dict[str, Any] = {"dataset": "demo-scene", "root": None}
    config = ExtractConfig(**settings, out="rooms.store")
    assert config == ExtractConfig(**settings, out=Path("rooms.store"))


@pytest.mark.parametrize("kind", [ExtractConfig, TrainConfig])
def test_no_two_settings_of_a_table_have_the_same_comment(kind: type) -> None:
    tables: dict[str, list[str]] = {}
    for setting in settings_in(kind):
        described = tables.setdefault(setting.name.rpartition(".")[0], [])
        assert setting.field.description not in described, setting.name
        described.append(str(setting.field.description))


def test_the_names_that_help_lists_are_those_that_exist() -> None:
    assert set(choices.DATASETS) == set(DATASETS)
    assert (*STUDENTS,) == choices.STUDENTS
    assert (*LOSSES,) == choices.LOSSES
