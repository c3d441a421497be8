"""Write docs/settings.md from the settings classes: `python tools/settings_page.py`."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic_core import PydanticUndefined

from p2pkit.cli.commands.check import check
from p2pkit.cli.commands.demo import demo
from p2pkit.cli.commands.evaluate import evaluate
from p2pkit.cli.commands.export import export
from p2pkit.cli.commands.extract import extract
from p2pkit.cli.commands.pretrain import pretrain
from p2pkit.cli.commands.report import report
from p2pkit.cli.commands.retrieval import retrieval
from p2pkit.cli.commands.train import train
from p2pkit.cli.commands.view import view
from p2pkit.cli.options import flag_of
from p2pkit.pipelines.evaluate.settings import EvaluateConfig, ProbeStageConfig
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.settings import (
    CheckConfig,
    DemoConfig,
    ExportConfig,
    PretrainConfig,
    ReportConfig,
    RetrievalConfig,
    ViewConfig,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import Setting, bounds_of, default_of, settings_in

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
COMMANDS: dict[str, tuple[Any, click.Command]] = {
    "p2pkit extract, p2pkit plan": (ExtractConfig, extract),
    "p2pkit train, p2pkit profile": (TrainConfig, train),
    "p2pkit evaluate": (EvaluateConfig, evaluate),
    "p2pkit evaluate --preset probe": (ProbeStageConfig, evaluate),
    "p2pkit check": (CheckConfig, check),
    "p2pkit retrieval": (RetrievalConfig, retrieval),
    "p2pkit view": (ViewConfig, view),
    "p2pkit report": (ReportConfig, report),
    "p2pkit export": (ExportConfig, export),
    "p2pkit pretrain": (PretrainConfig, pretrain),
    "p2pkit demo": (DemoConfig, demo),
}
HEAD = """# Settings

Every setting by its dotted name, which `--set KEY=VALUE` takes, and the TOML of `--config` in
tables. Settings with an option can be given by it, but not by the option and `--set` together.
 An unknown name or a value of another type or out of bounds is an error. In a file,
settings whose default is `none` are omitted. In Python the headings name the classes.

This page is written by `python tools/settings_page.py`.
"""
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_section(name, *row) for name, row in COMMANDS.items())


def _section(names: str, kind: Any, command: click.Command) -> str:
    flags = {flag for option in command.params for flag in option.opts}
    shown = [one for one in settings_in(kind) if one.table is None or one.option is not None]
    rows = [_row(setting, flags) for setting in shown]
    table = ["| Setting | Type | Default | Meaning |", "|---|---|---|---|", *rows]
    commands = " and ".join(f"`{name}`" for name in names.split(", "))
    return f"\n## {commands}\n\n`{kind.__name__}`\n\n" + "\n".join(table) + "\n"


def _row(setting: Setting, flags: set[str]) -> str:
    default = default_of(setting.field)
    flag = flag_of(setting) if setting.option is not None else ""
    names = f"`{setting.name}`" + (f" `{flag}`" if flag in flags else "")
    shown = "required" if default is PydanticUndefined else f"`{_shown(default)}`"
    meaning = (setting.field.description or "").replace("|", "\\|")
    kind = f"{_type(setting.field.annotation)} {_bounds(setting)}".strip()
    return f"| {names} | {kind} | {shown} | {meaning} |"


def _bounds(setting: Setting) -> str:
    bounds = bounds_of(setting.field)
    return ", ".join(f"{SIGNS[name]} {_number(value)}" for name, value in bounds.items())


def _number(limit: float) -> str:
    return "2⁶³" if limit == 2**63 else f"{limit:g}"


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return f"[{', '.join(map(_shown, default))}]"
    if isinstance(default, float):
        return f"{default:g}"
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(default) or '""'


def _type(kind: Any) -> str:
    kinds = [inner for inner in get_args(kind) if inner is not type(None)]
    if get_origin(kind) is Literal:
        return " \\| ".join(f"`{name}`" for name in kinds)
    if type(None) in get_args(kind):
        return _type(kinds[0])
    if get_origin(kind) is tuple:
        return f"list of {_type(kinds[0])}" if ... in kinds else " × ".join(map(_type, kinds))
    if get_origin(kind) is dict:
        return "table"
    if hasattr(kind, "__metadata__"):
        return _type(kinds[0])
    names = {str: "text", Path: "path", bool: "true \\| false"}
    return names[kind] if kind in names else str(kind.__name__)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
