from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.settings import (
    config_from_json,
    config_of_another_version,
    config_to_json,
    merged_tables,
    nested,
    with_settings,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["cosine", "constant"] = "constant"
    range: tuple[float, float] = (0.1, 10.0)


@dataclass(frozen=True)
class Outer:
    store: Path
    steps: int = 10
    name: str | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}; it must be at least 1")


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
        ("inner.ratee=3", r"unknown setting 'inner.ratee'; did you mean rate\?"),
        ("qqq=3", "unknown setting 'qqq'; known settings: inner, name, steps, store"),
        ("steps.deep=3", "unknown setting 'steps.deep'"),
        ("steps=many", "setting steps is 'many'"),
        ("steps=1.5", "setting steps is 1.5"),
        ("inner.kind=cosin", "setting inner.kind is 'cosin'"),
        ("inner=3", "setting inner is 3"),
        ("steps", "setting 'steps' has no value; write it as key=value"),
        ("steps=0", "steps is 0; it must be at least 1"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_settings(BASE, [setting])


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
    with pytest.raises(ConfigError, match=r"setting 'rate'; did you mean inner\.rate\?"):
        config_from_json(Outer, {"store": "x", "rate": 1})


def test_unknown_names_in_json_are_refused_at_every_level() -> None:
    with pytest.raises(ConfigError, match=r"'inner\.rat'; did you mean rate"):
        config_from_json(Outer, {"store": "x", "inner": {"rat": 1}})
    with pytest.raises(ConfigError, match=r"setting store"):
        config_from_json(Outer, {})


def test_of_another_version_what_is_refused_has_its_default() -> None:
    written = {"store": "x", "steps": 0, "name": "a", "pace": 2, "inner": {"rate": 2, "kind": "no"}}
    config, left_out = config_of_another_version(Outer, written, needed=("store",))
    assert config == Outer(Path("x"), name="a", inner=Inner(rate=2.0))
    told = {row.name: (row.value, row.is_unknown) for row in left_out}
    assert told == {"steps": (0, False), "pace": (2, True), "inner.kind": ("no", False)}
    reasons = {row.name: row.reason for row in left_out}
    assert reasons["steps"] == "steps is 0; it must be at least 1"


def test_of_this_version_nothing_is_left_out() -> None:
    value = config_to_json(Outer(Path("x"), steps=3, name="a", inner=Inner(kind="cosine")))
    config, left_out = config_of_another_version(Outer, value, needed=())
    assert (config_to_json(config), left_out) == (value, [])


@pytest.mark.parametrize(
    ("written", "needed", "message"),
    [
        ({"store": "x", "steps": 0}, "steps", "steps is 0"),
        ({"store": "x", "inner": {"rate": "fast"}}, "inner.rate", "setting rate is 'fast'"),
        ({"store": 3}, "steps", "setting store is 3"),
    ],
)
def test_of_another_version_what_is_needed_is_not_left_out(
    written: dict[str, object], needed: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of_another_version(Outer, written, needed=(needed,))
