"""Settings: frozen dataclasses read strictly from JSON, TOML or `key=value` text."""

import dataclasses
import difflib
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import tomli_w
from pydantic import TypeAdapter, ValidationError

from p2pkit.errors import ConfigError

Config = TypeVar("Config")


class LeftOut(NamedTuple):
    """A setting that `config_of_another_version` did not take over: dotted name, value, reason."""

    name: str
    value: Any
    reason: str
    is_unknown: bool


def config_from_json(kind: type[Config], value: Mapping[str, Any]) -> Config:
    """Build the dataclass `kind` from nested JSON; fields that are absent keep their defaults.

    Raises:
        ConfigError: an unknown name (with the nearest known one) or a value of the wrong type.
    """
    _refuse_unknown(kind, value, prefix="")
    try:
        return TypeAdapter(kind).validate_python(dict(value))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(entry) for entry in error.errors())) from None


def config_of_another_version(
    kind: type[Config], value: Mapping[str, Any], *, needed: Collection[str]
) -> tuple[Config, list[LeftOut]]:
    """As `config_from_json`, for what another version of p2pkit wrote: what is refused is left out.

    A setting that is unknown, or that is not accepted beside those before it, has its default.

    Args:
        kind: of the config.
        value: nested JSON.
        needed: dotted names of settings that must be taken as they are.

    Returns:
        The config, and the settings that were left out.

    Raises:
        ConfigError: the needed settings, or those that have no default, are refused.
    """
    left_out: list[LeftOut] = []
    taken = _taken_over(kind, value, needed, "", left_out)
    return config_from_json(kind, taken), left_out


def _taken_over(
    kind: Any, value: Mapping[str, Any], needed: Collection[str], prefix: str, out: list[LeftOut]
) -> dict[str, Any]:
    """The settings of a table that are accepted; the others are added to `out`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value.keys() - fields.keys():
        reason = "this version has no such setting"
        out.append(LeftOut(prefix + name, value[name], reason, is_unknown=True))
    rows: dict[str, Any] = {}
    for name in filter(value.__contains__, fields):
        table, inner = _table_of(fields[name].type), value[name]
        is_table = table is not None and isinstance(inner, Mapping)
        deeper = f"{prefix}{name}."
        rows[name] = _taken_over(table, inner, needed, deeper, out) if is_table else inner
    must = {name for name in rows if _must_stay(fields[name], prefix + name, needed)}
    taken = {name: rows[name] for name in must}
    config_from_json(kind, taken)
    for name in filter(lambda name: name not in must, rows):
        try:
            config_from_json(kind, {**taken, name: rows[name]})
        except ConfigError as error:
            out.append(LeftOut(prefix + name, value[name], str(error), is_unknown=False))
        else:
            taken[name] = rows[name]
    return taken


def _must_stay(field: Any, name: str, needed: Collection[str]) -> bool:
    """Whether a setting, or one in its table, is needed, or has no default."""
    has_default = not (field.default is field.default_factory is dataclasses.MISSING)
    return not has_default or any(f"{one}.".startswith(f"{name}.") for one in needed)


def config_to_json(config: Any) -> dict[str, Any]:
    """The dataclass as plain JSON values; `config_from_json` reads it back."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def config_to_toml(config: Any) -> str:
    """The dataclass as TOML, which `settings_from_toml` reads back; what is None is left out."""
    return tomli_w.dumps(_without_none(config_to_json(config)))


def settings_from_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, for `merged`.

    Raises:
        ConfigError: it cannot be read, or is no TOML; the message names the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def merged(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of `config` with nested settings in place of its own; tables are merged.

    Raises:
        ConfigError: an unknown name (with the nearest known one) or a value of the wrong type.
    """
    _refuse_unknown(type(config), settings, prefix="")
    return config_from_json(type(config), merged_tables(config_to_json(config), settings))


def merged_tables(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of `over` in place of their own; tables are merged."""
    result = dict(base)
    for name, value in over.items():
        inner = result.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = merged_tables(inner, value)
        result[name] = value
    return result


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose names have dots, as tables in tables."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        *path, last = name.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
        table[last] = value
    return tables


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """A copy of `config` with `key=value` settings applied; dots reach into nested configs.

    A value is read as JSON where it is valid JSON (numbers, true, null, lists), else as text.

    Raises:
        ConfigError: a setting without `=`, an unknown name or a value of the wrong type.
    """
    value = config_to_json(config)
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"setting {setting!r} has no value; write it as key=value")
        _assign(value, name.strip().split("."), _parse(text), name)
    return config_from_json(type(config), value)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(target: dict[str, Any], path: list[str], value: Any, name: str) -> None:
    for part in path[:-1]:
        inner = target.get(part)
        if not isinstance(inner, dict):
            raise ConfigError(_unknown(name, part, list(target)))
        target = inner
    if path[-1] not in target:
        raise ConfigError(_unknown(name, path[-1], list(target)))
    target[path[-1]] = value


def _refuse_unknown(kind: Any, value: Mapping[str, Any], prefix: str) -> None:
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for name, inner in value.items():
        if name not in fields:
            deeper = _deeper(kind, name.replace("-", "_"), prefix)
            raise ConfigError(_unknown(prefix + name, name, list(fields), deeper))
        table = _table_of(fields[name])
        if table is not None and isinstance(inner, Mapping):
            _refuse_unknown(table, inner, prefix=f"{prefix}{name}.")


def _table_of(annotation: Any) -> Any:
    """The dataclass that a field holds, if any: itself, or `dataclass | None`."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)


def _deeper(kind: Any, name: str, prefix: str) -> list[str]:
    """Where a name stands in the tables of `kind`, at any depth."""
    found: list[str] = []
    for field in dataclasses.fields(kind):
        if field.name == name:
            found.append(prefix + name)
        table = _table_of(field.type)
        if table is not None:
            found += _deeper(table, name, f"{prefix}{field.name}.")
    return found


def _unknown(full_name: str, name: str, known: list[str], deeper: Sequence[str] = ()) -> str:
    near = deeper or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known settings: {', '.join(sorted(known))}"
    return f"unknown setting {full_name!r}; {hint}"


def _explain(entry: Any) -> str:
    name = ".".join(str(part) for part in entry["loc"]) or "config"
    return f"setting {name} is {entry['input']!r}: {entry['msg']}"


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


WIDTH = 98

ARGUMENT = re.compile(r"^ {4}(\w[\w, ]*): (.*)$")


def commented_toml(config: Any, remarks: Mapping[str, str] | None = None) -> str:
    """TOML that `p2pkit.settings.settings_from_toml` reads back to the same settings.

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
