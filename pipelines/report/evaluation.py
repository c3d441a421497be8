"""A report's section on few labels: what `p2pkit evaluate` found for the run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from p2pkit.errors import ConfigError
from p2pkit.files import sha256_file
from p2pkit.pipelines.evaluate.report import (
    FORMAT,
    SCRATCH,
    card_line,
    choice_line,
    header,
    reading,
    row_texts,
    seen_line,
    steps_line,
)
from p2pkit.pipelines.report.html import table
from p2pkit.pipelines.report.plots import Series, plot
from p2pkit.pipelines.train.checkpoints import BEST, latest_checkpoint
from p2pkit.pipelines.train.model import WEIGHTS


@dataclass(frozen=True)
class FoundEvaluation:
    """An evaluation that measured a run's weights.

    Args:
        folder: of its report.json.
        report: its content.
        name: of the run's weights in it.
    """

    folder: Path
    report: dict[str, Any]
    name: str


def find_evaluation(run: Path, folder: Path | None) -> FoundEvaluation | None:
    """The evaluation in `folder`, else the newest one near the run that measured its weights.

    Near is a folder in the run's or beside it.

    Raises:
        ConfigError: `folder` holds no evaluation, or one of other weights.
    """
    if folder is not None:
        return _named_evaluation(run, folder)
    near = sorted(_reports_near(run), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in near:
        report = _read_report(path)
        name = None if report is None else _name_of(run, report)
        if report is not None and name is not None:
            return FoundEvaluation(path.parent, report, name)
    return None


def _named_evaluation(run: Path, folder: Path) -> FoundEvaluation:
    report = _read_report(folder / "report.json")
    if report is None:
        raise ConfigError(
            f"{folder} holds no evaluation (report.json); name what `p2pkit evaluate --out` wrote"
        )
    name = _name_of(run, report)
    if name is None:
        names = ", ".join(dict.fromkeys(cell["name"] for cell in report["cells"]))
        raise ConfigError(
            f"{folder} measured none of the weights that {run} has now, but other ones ({names}); "
            "evaluate the run into another folder"
        )
    return FoundEvaluation(folder, report, name)


def _reports_near(run: Path) -> Iterator[Path]:
    yield from run.glob("*/report.json")
    yield from run.absolute().parent.glob("*/report.json")


def _read_report(path: Path) -> dict[str, Any] | None:
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    is_evaluation = isinstance(report, dict) and report.get("format") == FORMAT
    return report if is_evaluation else None


def _name_of(run: Path, report: dict[str, Any]) -> str | None:
    """Name of the run's newest or best weights in an evaluation, known by their checksum."""
    files = [latest_checkpoint(run).path / WEIGHTS, run / BEST / WEIGHTS]
    own = {sha256_file(path) for path in files if path.is_file()}
    return next((cell["name"] for cell in report["cells"] if cell["weights"] in own), None)


def evaluation_section(
    found: FoundEvaluation | None, run: Path, store: str, *, has_labels: bool
) -> list[str]:
    """Tables and plots of the evaluation, or the command that makes it."""
    title = "<h2>Few labels: does pretraining help?</h2>"
    if found is None:
        named = store if has_labels else "LABELLED-STORE"
        return [
            title,
            "<p>Not measured yet. This compares the run with the same network from scratch on few "
            "labels, each figure with its interval; the next report finds it beside the run:</p>",
            f"<pre>p2pkit evaluate {escape(f'{run} --on {named} --out {run}-evaluation')}</pre>",
        ]
    card: dict[str, Any] = found.report["protocol"]
    warnings = (card.get("warning", ""), seen_line(card))
    lines = [
        title,
        f"<p>{escape(card_line(card))}.</p>",
        *(f"<p class='box'>{escape(line)}</p>" for line in warnings if line),
    ]
    for mode, rows in found.report["tables"].items():
        lines += _mode(mode, rows, found.name, card)
    return [
        *lines,
        f"<p class='soft'>{escape(reading(card))} Whiskers are ± one standard deviation over the "
        f"seeds. From {escape(str(found.folder / 'report.json'))}.</p>",
        "<details><summary>Protocol card</summary>"
        f"<pre>{escape(json.dumps(card, indent=1))}</pre></details>",
    ]


def _mode(mode: str, rows: Sequence[dict[str, Any]], name: str, card: dict[str, Any]) -> list[str]:
    own = [row for row in rows if row["name"] == name]
    clear = [row for row in own if row["difference"]["is_clear"]]
    better = sum(row["difference"]["mean"] > 0 for row in clear)
    names = dict.fromkeys(row["name"] for row in rows)
    return [
        f"<h3>{escape(mode)}</h3>",
        f"<p>{escape(name)} against scratch: the 95 % interval of the difference lies above 0 at "
        f"{better} of {len(own)} label fractions, below 0 at {len(clear) - better}; at the others "
        "it holds 0, or one seed gives none.</p>",
        plot(
            [_series(rows, line) for line in names],
            x_label=header(card)[0],
            y_label=f"mIoU, %, {mode}",
            log_x=True,
        ),
        table(header(card), [row_texts(row) for row in rows]),
        *(
            f"<p class='soft'>{escape(line)}</p>"
            for line in (choice_line(mode, card), steps_line(rows))
            if line
        ),
    ]


def _series(rows: Sequence[dict[str, Any]], name: str) -> Series:
    own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["percent"])
    return Series(
        name=name,
        x=[row["percent"] for row in own],
        y=[100 * row["miou"] for row in own],
        error=[100 * (row["miou_sd"] or 0.0) for row in own],
        baseline=name == SCRATCH,
    )
