"""Settings: one frozen dataclass per stage, read strictly from JSON, TOML or `key=value` text."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args

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
