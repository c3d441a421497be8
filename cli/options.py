"""Command options, made from the fields of settings classes, and the values given with them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource
from pydantic_core import PydanticUndefined

from p2pkit.errors import ConfigError
from p2pkit.settings import (
    Config,
    Setting,
    bounds_of,
    config_from_json,
    default_of,
    flat,
    merged_tables,
    nested,
    parse_value,
    settings_from_text,
    settings_in,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class NamedPath(click.Path):
    """A path that is not empty: `"$UNSET"` would name the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error if it is empty."""
        if not str(value).strip():
            self.fail("the path is empty; is a shell variable unset?", param, ctx)
        return super().convert(value, param, ctx)


CONFIG_FILE = click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="Settings in a TOML file."
)
PRINT_CONFIG = click.option(
    "--print-config", is_flag=True, help="Print the resolved settings as TOML and stop."
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any setting by its dotted name; docs/settings.md lists them.",
)


def options_of(
    kind: Any, *, optional: Iterable[str] = (), without: Iterable[str] = ()
) -> Decorator:
    """Add an option for each field that is marked as one, and `--set` for the rest.

    Args:
        kind: a settings class.
        optional: dotted names of options that may be left out though the field has no default.
        without: dotted names of marked fields that the command does not offer.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        command = SET(command)
        for setting in reversed([*settings_in(kind)]):
            if setting.option is not None and setting.name not in without:
                command = option_of(setting, required=setting.name not in optional)(command)
        return command

    return decorate


def option_of(setting: Setting, *, required: bool = True) -> Decorator:
    """The option that a field is marked as.

    Args:
        setting: the field.
        required: whether it must be given where the field has no default.
    """
    marked, default = setting.option, default_of(setting.field)
    assert marked is not None
    kind = _plain(setting.field.annotation)
    more: dict[str, Any] = {"type": _click_type(setting)}
    if kind is bool:
        more = {"is_flag": True}
    elif get_origin(kind) is dict:
        more = {"multiple": True}
    elif default is PydanticUndefined:
        more["required"] = required
    else:
        more |= {"default": _text(default), "show_default": marked.default or default is not None}
    if marked.default == "":
        more["show_default"] = False
    return click.option(
        flag_of(setting),
        parameter(setting.name),
        metavar=marked.metavar,
        help=(setting.field.description or "").partition(". ")[0].removesuffix(".") + ".",
        **more,
    )


def flag_of(setting: Setting) -> str:
    """The flag of a marked field's option."""
    marked, last = setting.option, setting.name.rpartition(".")[2]
    return (marked.flag if marked is not None else None) or f"--{last.replace('_', '-')}"


def setting_of(kind: Any, name: str) -> Setting:
    """A setting of a class by its dotted name."""
    return next(setting for setting in settings_in(kind) if setting.name == name)


def parameter(name: str) -> str:
    """The command's parameter name for a dotted setting name."""
    return name.replace(".", "__")


def typed_settings(kind: Any) -> dict[str, Any]:
    """The settings given on the command line, by dotted name.

    `--seed` seeds everything: it sets each setting of that name.

    Raises:
        click.UsageError: an option and `--set` name the same setting.
        ConfigError: a value cannot be parsed into the elements of its setting, or a `--set` has
            none.
    """
    context = click.get_current_context()
    values: dict[str, Any] = {}
    for setting in settings_in(kind):
        name = parameter(setting.name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        values[setting.name] = _value(setting, context.params[name])
        refuse_twice(name, flat({setting.name: values[setting.name]}))
    if "seed" in values:
        seeds = [one.name for one in settings_in(kind) if one.name.endswith(".seed")]
        values |= dict.fromkeys(seeds, values["seed"])
    return merged_tables(values, settings_from_text(context.params["settings"]))


def refuse_twice(option: str, names: Iterable[str]) -> None:
    """Reject an option together with a `--set` of what it sets, of a part of it, or around it.

    Args:
        option: by parameter name; UsageError if it was given beside such a `--set`.
        names: dotted names of the settings that it sets.
    """
    flags, own = typed(option), [*names]
    for text in click.get_current_context().params["settings"]:
        if flags and any(_overlap(x, y) for x in flat(settings_from_text([text])) for y in own):
            raise click.UsageError(f"{flags[0]} and --set {text} name the same setting; keep one")


def _overlap(name: str, other: str) -> bool:
    """Whether two dotted names are the same setting, or one is a table with the other in it."""
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


def config_of(kind: type[Config], **values: Any) -> Config:
    """The settings given on the command line, and those that the command decides.

    Raises:
        click.UsageError: as `typed_settings`, or `--set` names what the command decides.
        ConfigError: a setting is unknown, or its value is not allowed.
    """
    refuse_set(values)
    return config_from_json(kind, nested(typed_settings(kind) | values))


def refuse_set(decided: Iterable[str]) -> None:
    """Raise UsageError if `--set` names a setting, by dotted name, that the command decides."""
    decided = [*decided]
    for name in set_names():
        if name in decided:
            raise click.UsageError(f"--set {name} would be ignored: {_place_of(name)}")


def _place_of(name: str) -> str:
    """Where the command takes a setting that it decides itself."""
    parameters = click.get_current_context().command.params
    flag = f"--{name.rpartition('.')[2].replace('_', '-')}"
    for one in parameters:
        if isinstance(one, click.Option) and (one.name == parameter(name) or flag in one.opts):
            return f"use {max(one.opts, key=len)}"
    arguments = [one for one in parameters if isinstance(one, click.Argument)]
    named = [one for one in arguments if one.name == parameter(name)] or arguments
    return f"name it as the argument {' '.join(one.human_readable_name for one in named)}"


def typed(*options: str) -> list[str]:
    """The flags of those options, by parameter name, that were given on the command line."""
    context = click.get_current_context()
    written = {str(option.name): max(option.opts, key=len) for option in context.command.params}
    return [
        written[name]
        for name in options
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


def set_names() -> list[str]:
    """The dotted names that `--set` gives, as they are written."""
    texts = click.get_current_context().params.get("settings", ())
    return [text.partition("=")[0].strip() for text in texts]


def refuse(options: Iterable[str], why: str) -> None:
    """Reject options, by parameter name, that have no effect together with the others.

    Args:
        options: those without effect; UsageError if one was given, by its flag or by `--set`.
        why: the reason, and what to do.
    """
    names = list(options)
    found = typed(*names) + [f"--set {name}" for name in set_names() if parameter(name) in names]
    if found:
        raise click.UsageError(f"{', '.join(found)} would be ignored: {why}")


def _plain(annotation: Any) -> Any:
    """The type without `| None`."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(annotation) else annotation


def _click_type(setting: Setting) -> Any:
    kind, bounds = _plain(setting.field.annotation), bounds_of(setting.field)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple and ... not in get_args(kind):
        return (int, int)
    if kind in (int, float):
        limits: dict[str, Any] = {
            "min": bounds.get("ge", bounds.get("gt")),
            "max": bounds.get("le", bounds.get("lt")),
            "min_open": "gt" in bounds,
            "max_open": "lt" in bounds,
        }
        if not bounds:
            return kind
        return click.IntRange(**limits) if kind is int else click.FloatRange(**limits)
    return NamedPath(path_type=Path) if kind is Path else str


def _text(default: Any) -> Any:
    """A default as a user would type it."""
    if isinstance(default, tuple):
        return ",".join(f"{x:g}" if isinstance(x, float) else str(x) for x in default) or None
    return default


def _value(setting: Setting, typed: Any) -> Any:
    """The typed text as the field's type: lists are split at commas, tables at NAME=VALUE."""
    kind = _plain(setting.field.annotation)
    if get_origin(kind) is tuple and isinstance(typed, str):
        words = [word.strip() for word in typed.split(",") if word.strip()]
        element = get_args(kind)[0]
        is_number = getattr(element, "__origin__", element) is float
        return [parse_value(word) for word in words] if is_number else words
    if get_origin(kind) is dict:
        return dict(_pair(setting, text) for text in typed)
    return typed


def _pair(setting: Setting, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        marked = setting.option
        form = marked.metavar if marked is not None else None
        raise ConfigError(f"{flag_of(setting)} is {text!r}; expected {form}")
    return name, value
