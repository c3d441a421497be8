"""A config as TOML with each setting's meaning above it, out of the dataclass's own docstring."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import tomli_w

from p2pkit.config import config_to_json

WIDTH = 98
ARGUMENT = re.compile(r"^ {4}(\w[\w, ]*): (.*)$")


def commented_toml(config: Any, remarks: Mapping[str, str] | None = None) -> str:
    """TOML that `p2pkit.config.settings_from_toml` reads back to the same settings.

    Settings that are None stand as comments, since TOML has no such value.

    Args:
        config: a dataclass, whose docstring tells what its fields mean.
        remarks: why a setting has its value, by dotted name; below its meaning.
    """
    return _table(config, "", remarks or {}).lstrip("\n")


def meanings(kind: type) -> dict[str, str]:
    """What each field means: the entries of the docstring's `Args`."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(kind) or "").partition("Args:\n")[2].splitlines():
        if line and not line.startswith(" "):
            break
        match = ARGUMENT.match(line)
        if match is not None:
            names = [name.strip() for name in match[1].split(",")]
            found |= dict.fromkeys(names, match[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _table(config: Any, prefix: str, remarks: Mapping[str, str]) -> str:
    values, told = config_to_json(config), meanings(type(config))
    lines: list[str] = [f"\n[{prefix}]"] if prefix else []
    tables: list[str] = []
    for field in dataclasses.fields(config):
        name = f"{prefix}.{field.name}" if prefix else field.name
        value = getattr(config, field.name)
        told_here = comment(told.get(field.name, "")) + comment(remarks.get(name, ""))
        if dataclasses.is_dataclass(value):
            tables.append("\n" + told_here + _table(value, name, remarks))
            continue
        if isinstance(value, dict):
            tables.append(f"\n{told_here}[{name}]\n{tomli_w.dumps(values[field.name])}")
            continue
        lines.append(told_here.rstrip("\n"))
        if values[field.name] is None:
            lines.append(f"# {field.name} = ")
        else:
            lines.append(tomli_w.dumps({field.name: values[field.name]}).rstrip("\n"))
    return "\n".join(line for line in lines if line) + "\n" + "".join(tables)


def comment(text: str) -> str:
    """A text as lines of remark."""
    wrapped = textwrap.wrap(text, WIDTH - 2)
    return "".join(f"# {line}\n" for line in wrapped)
