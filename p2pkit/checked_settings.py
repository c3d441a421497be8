"""Checks that settings share: names out of a list, and numbers within bounds."""

from collections.abc import Iterable
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

from p2pkit.errors import ConfigError


def check_choices(config: Any, *, prefix: str = "") -> None:
    """Compare the fields that are annotated as a `Literal` with its names.

    Files and the command line are checked as they are read; this is for configs built in Python.

    Args:
        config: a dataclass.
        prefix: what stands before the names in the message, such as `optimizer.`.

    Raises:
        ConfigError: a value is none of the names.
    """
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise ConfigError(
                f"{prefix}{name} is {getattr(config, name)!r}; choose one of "
                f"{', '.join(map(str, get_args(hint)))}"
            )


def check_numbers(
    config: Any, names: Iterable[str], *, prefix: str = "", positive: bool = False
) -> None:
    """Raise ConfigError where a field is NaN, infinite, negative, or 0 that must be positive."""
    for name in names:
        value = getattr(config, name)
        if not isfinite(value) or value < 0 or (positive and value == 0):
            allowed = "positive" if positive else "0 or more"
            raise ConfigError(f"{prefix}{name} is {value}; it must be finite and {allowed}")
