"""Settings classes: one per stage, with type, bounds, default and description at each field.

Checks, messages, command-line options, the commented TOML of `p2pkit init` and docs/settings.md all
come from the fields. The classes in this folder belong to the library's parts and import nothing
heavy; those of the stages are in `p2pkit.pipelines`.
"""

import dataclasses
import difflib
import json
import os
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, dataclass_transform, get_args

import tomli_w
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from p2pkit.errors import ConfigError
from p2pkit.files import is_utf8

Config = TypeVar("Config")

Location = Annotated[str, BeforeValidator(lambda x: str(x) if isinstance(x, Path) else x)]
"""A path or URL as text; paths are accepted."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What numpy and torch take, also with the number of a draw added."""


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings_class(cls: type[Config]) -> type[Config]:
    """Make a frozen dataclass that checks its fields whether it is built in Python or read.

    `dataclasses.replace` and `asdict` work as for any dataclass. A `__post_init__` checks what
    concerns several fields.

    Raises:
        ConfigError: when an object is built with an unknown name, a wrong type or a value out of
            bounds.
    """
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(cls, frozen=True, config=config)
    build = made.__init__

    @wraps(build)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            build(self, *args, **values)
        except ValidationError as error:
            raise _config_error(cls, error) from None

    made.__init__ = init
    return made


class Option(NamedTuple):
    """How the command line offers a setting.

    Args:
        flag: such as `--steps`; None makes it of the field's name.
        metavar: what stands for the value in the help.
        default: what the help shows as the default; None shows the field's own.
    """

    flag: str | None = None
    metavar: str | None = None
    default: str | None = None


def option(
    flag: str | None = None, *, metavar: str | None = None, default: str | None = None
) -> dict[str, Any]:
    """`json_schema_extra` of a field that is an option of the command line; see `Option`."""
    return {"option": list(Option(flag, metavar, default))}


class Setting(NamedTuple):
    """A field of a settings class or of a table in it.

    Args:
        name: dotted.
        field: type, bounds, default and description.
        table: the settings class that the field holds, if any.
    """

    name: str
    field: FieldInfo
    table: Any

    @property
    def option(self) -> Option | None:
        """How the command line offers it; None if it does not."""
        extra: Any = self.field.json_schema_extra
        return None if extra is None else Option(*extra["option"])


def fields_of(kind: Any) -> dict[str, FieldInfo]:
    """The fields of a settings class."""
    return kind.__pydantic_fields__


def settings_in(kind: Any, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a class in the order of its fields; those of tables follow the table."""
    for name, field in fields_of(kind).items():
        kinds = (field.annotation, *get_args(field.annotation))
        table = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        yield Setting(prefix + name, field, table)
        if table is not None:
            yield from settings_in(table, f"{prefix}{name}.")


def default_of(field: FieldInfo) -> Any:
    """A field's default; `PydanticUndefined` where it has none."""
    return field.get_default(call_default_factory=True, validated_data={})


def bounds_of(field: FieldInfo) -> dict[str, Any]:
    """Those of ge, gt, le and lt that a field has."""
    rules = [(name, rule) for rule in field.metadata for name in ("ge", "gt", "le", "lt")]
    return {name: getattr(rule, name) for name, rule in rules if hasattr(rule, name)}


def config_from_json(kind: type[Config], value: Mapping[str, Any]) -> Config:
    """Build the settings class `kind` from nested JSON; absent fields keep their defaults.

    Types are as in JSON: "5" is not a number, and 5 is not text. Paths may be paths.

    Raises:
        ConfigError: an unknown name (with the nearest known one), a value of the wrong type or out
            of bounds.
    """
    try:
        text = json.dumps(dict(value), default=os.fspath, ensure_ascii=False)
        built = TypeAdapter(kind).validate_json(text.encode(errors="replace"), strict=True)
        if is_utf8(text):
            return built
        # pydantic's JSON has no bytes that are not UTF-8; the types are those just checked.
        return TypeAdapter(kind).validate_python(json.loads(text))
    except ValidationError as error:
        raise _config_error(kind, error) from None


def config_to_json(config: Any) -> dict[str, Any]:
    """The settings as plain JSON values; `config_from_json` reads them back."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def config_to_toml(config: Any) -> str:
    """The settings as TOML, which `settings_from_toml` reads back; what is None is left out."""
    return tomli_w.dumps(_without_none(config_to_json(config)))


def settings_from_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, for `merged`; paths in it may have bytes that are not UTF-8.

    Raises:
        ConfigError: the file cannot be read or is not TOML, and the message names the line; or a
            value is a date or a time, which no setting is.
    """
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for name, value in flat(settings).items():
        if _holds_date(value):
            raise ConfigError(f"{name} in {path} is a date or a time; write it in quotes")
    return settings


def _holds_date(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, (date, time)) or any(map(_holds_date, inner))


def merged(config: Config, settings: Mapping[str, Any]) -> Config:
    """A copy of `config` in which nested settings replace its own; tables are merged.

    Raises:
        ConfigError: as `config_from_json`.
    """
    return config_from_json(type(config), merged_tables(config_to_json(config), settings))


def merged_tables(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings in which those of `over` replace their own; tables are merged."""
    result = dict(base)
    for name, value in over.items():
        inner = result.get(name)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = merged_tables(inner, value)
        result[name] = value
    return result


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names as tables in tables."""
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        for part in reversed(name.split(".")):
            value = {part: value}
        tables = merged_tables(tables, value)
    return tables


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings of tables in tables by dotted name, as `nested` takes them."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        inner = {prefix + name: value}
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else inner
    return values


def with_settings(config: Config, settings: Iterable[str]) -> Config:
    """A copy of `config` with `key=value` settings applied; dots reach into tables.

    Raises:
        ConfigError: a setting without `=`, or as `config_from_json`.
    """
    return merged(config, nested(settings_from_text(settings)))


def settings_from_text(settings: Iterable[str]) -> dict[str, Any]:
    """`key=value` settings by dotted name.

    A value is read as JSON where it is valid JSON (numbers, true, null, lists), else as text.

    Raises:
        ConfigError: a setting without `=`.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"setting {setting!r} has no value; write it as key=value")
        values[name.strip()] = parse_value(text)
    return values


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return value


def parse_value(text: str) -> Any:
    """JSON where it is valid JSON (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _config_error(kind: type, error: ValidationError) -> ConfigError:
    return ConfigError("; ".join(_explain(kind, entry) for entry in error.errors()))


ALLOWED: dict[str, Callable[[dict[str, Any]], str]] = {
    "too_short": lambda limit: f"needs at least {limit['min_length']}",
    "greater_than": lambda limit: f"must be greater than {_number(limit['gt'])}",
    "greater_than_equal": lambda limit: f"must be at least {_number(limit['ge'])}",
    "less_than": lambda limit: f"must be less than {_number(limit['lt'])}",
    "less_than_equal": lambda limit: f"must be at most {_number(limit['le'])}",
    "finite_number": lambda limit: "must be finite",
    "literal_error": lambda limit: (
        "choose one of " + limit["expected"].replace("'", "").replace(" or ", ", ")
    ),
    "dataclass_type": lambda limit: "must be a table of settings",
}
"""What is allowed, by pydantic's type of error."""


def _number(limit: float) -> str:
    return str(limit).removesuffix(".0")


def _explain(kind: type, entry: Any) -> str:
    """One line: dotted name, value, what is allowed."""
    first, *rest = entry["loc"]
    first = list(fields_of(kind))[first] if isinstance(first, int) else first
    name = ".".join(map(str, (first, *rest)))
    if entry["type"] == "unexpected_keyword_argument":
        return _unknown(kind, name)
    if entry["type"] == "missing":
        return f"setting {name} is missing"
    rule = ALLOWED.get(entry["type"])
    message = entry["msg"].removeprefix("Input ").removeprefix("Value error, ")
    allowed = rule(entry.get("ctx", {})) if rule is not None else message
    return f"{name} is {entry['input']!r}; {allowed}"


def _unknown(kind: type, name: str) -> str:
    near = nearest(name, [setting.name for setting in settings_in(kind)])
    known = f"known settings: {', '.join(sorted(fields_of(kind)))}"
    return f"unknown setting {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else known)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The dotted names most like a mistyped one: same last word, similar, or abbreviated so."""
    wanted = name.rpartition(".")[2].replace("-", "_")
    last = {dotted: dotted.rpartition(".")[2] for dotted in known}
    similar = difflib.get_close_matches(wanted, {*last.values()} - {wanted}, n=1, cutoff=0.7)
    same = [dotted for dotted, word in last.items() if word == wanted]
    near = [dotted for dotted, word in last.items() if word in similar]
    initials = [dotted for dotted, word in last.items() if _initials(word) == wanted]
    return same or near or initials


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


WIDTH = 98


def commented_toml(config: Any, remarks: Mapping[str, str] | None = None) -> str:
    """TOML that `settings_from_toml` reads back to the same settings, each below its description.

    Settings that are None stand as comments, since TOML has no such value.

    Args:
        config: of a settings class.
        remarks: why a setting has its value, by dotted name; below its description.
    """
    return _table(config, "", remarks or {}).lstrip("\n")


def _table(config: Any, prefix: str, remarks: Mapping[str, str]) -> str:
    values = config_to_json(config)
    lines: list[str] = [f"\n[{prefix}]"] if prefix else []
    tables: list[str] = []
    for key, field in fields_of(type(config)).items():
        name = f"{prefix}.{key}" if prefix else key
        value = getattr(config, key)
        heading = comment(field.description or "") + comment(remarks.get(name, ""))
        if dataclasses.is_dataclass(value):
            tables.append("\n" + heading + _table(value, name, remarks))
            continue
        if isinstance(value, dict):
            tables.append(f"\n{heading}[{name}]\n{tomli_w.dumps(values[key])}")
            continue
        lines.append(heading.rstrip("\n"))
        if values[key] is None:
            lines.append(f"# {key} = ")
        else:
            lines.append(tomli_w.dumps({key: values[key]}).rstrip("\n"))
    return "\n".join(line for line in lines if line) + "\n" + "".join(tables)


def comment(text: str) -> str:
    """A text as lines of comment."""
    wrapped = textwrap.wrap(text, WIDTH - 2)
    return "".join(f"# {line}\n" for line in wrapped)
