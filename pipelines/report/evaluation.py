"""A report's section on few labels: what `p2pkit evaluate` found for the run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from p2pkit.errors import ConfigError
from p2pkit.files import sha256_file
from p2pkit.pipelines.evaluate.report import (
    FORMAT,
    SCRATCH,
    card_line,
    choice_line,
    header,
    main_metric,
    metrics_of,
    reading,
    row_texts,
    seen_line,
    steps_line,
)
from p2pkit.pipelines.report.figures import Series, plot
from p2pkit.pipelines.report.page import Tile
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

    Near means a folder in or next to the run's.

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
            f"{folder} holds no evaluation (report.json); name one that `p2pkit evaluate` wrote"
        )
    name = _name_of(run, report)
    if name is None:
        names = ", ".join(dict.fromkeys(cell["name"] for cell in report["cells"]))
        raise ConfigError(
            f"{folder} measured none of the current weights of {run}, but others ({names}); "
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
    """Name of the run's newest or best weights in an evaluation, identified by their checksum."""
    files = [latest_checkpoint(run).path / WEIGHTS, run / BEST / WEIGHTS]
    own = {sha256_file(path) for path in files if path.is_file()}
    return next((cell["name"] for cell in report["cells"] if cell["weights"] in own), None)


@dataclass(frozen=True)
class ModeSection:
    """What the page shows of one mode of an evaluation.

    Args:
        mode: its name.
        better, worse, fractions: at how many of the label fractions the 95 % interval of the
            difference from scratch is above and below 0.
        gain: at the smallest fraction, for the top of the page.
        plot: the main score by label fraction.
        header: of the table.
        rows: of the table.
        notes: sentences below it.
    """

    mode: str
    better: int
    worse: int
    fractions: int
    gain: Tile
    plot: Markup
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class EvaluationSection:
    """What the page shows of an evaluation.

    Args:
        name: of the run's weights.
        path: of report.json.
        line: the protocol card in one line.
        warnings: what the figures do not show.
        modes: one section each.
        reading: how to read the intervals.
        card: the protocol card as JSON.
    """

    name: str
    path: Path
    line: str
    warnings: Sequence[str]
    modes: Sequence[ModeSection]
    reading: str
    card: str


def evaluation_section(found: FoundEvaluation) -> EvaluationSection:
    """Tables and plots of the evaluation."""
    card: dict[str, Any] = found.report["protocol"]
    return EvaluationSection(
        name=found.name,
        path=found.folder / "report.json",
        line=card_line(card),
        warnings=[line for line in (card.get("warning", ""), seen_line(card)) if line],
        modes=[
            _mode(mode, rows, found.name, card) for mode, rows in found.report["tables"].items()
        ],
        reading=reading(card),
        card=json.dumps(card, indent=1),
    )


def _mode(
    mode: str, rows: Sequence[dict[str, Any]], name: str, card: dict[str, Any]
) -> ModeSection:
    own = [row for row in rows if row["name"] == name]
    clear = [row for row in own if row["difference"]["is_clear"]]
    better = sum(row["difference"]["mean"] > 0 for row in clear)
    names = dict.fromkeys(row["name"] for row in rows)
    return ModeSection(
        mode=mode,
        better=better,
        worse=len(clear) - better,
        fractions=len(own),
        gain=_gain(mode, min(own, key=lambda row: row["percent"])),
        plot=plot(
            [_series(rows, line) for line in names],
            x_label=header(card, mode)[0],
            y_label=f"{main_metric(mode).name}, %, {mode}",
            log_x=True,
        ),
        header=header(card, mode),
        rows=[row_texts(row) for row in rows],
        notes=[line for line in (choice_line(mode, card), steps_line(rows)) if line],
    )


def _gain(mode: str, row: dict[str, Any]) -> Tile:
    """The difference from the better trivial baseline, and the interval of that to scratch."""
    found, baseline = row["difference"], row["baseline"]
    main = main_metric(mode)
    what = f"{main.name} over {baseline['name']}, {mode}, {row['percent']:g} % of the labels"
    detail = f"over scratch {100 * found['mean']:+.1f}"
    if found["low"] is not None:
        detail += f", 95 % interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}"
    return Tile(what, f"{100 * (row[main.key] - baseline[main.key]):+.1f}", detail)


def _series(rows: Sequence[dict[str, Any]], name: str) -> Series:
    key = metrics_of(rows[0])[0].key
    own = sorted((row for row in rows if row["name"] == name), key=lambda row: row["percent"])
    return Series(
        name=name,
        x=[row["percent"] for row in own],
        y=[100 * row[key] for row in own],
        error=[100 * (row[f"{key}_sd"] or 0.0) for row in own],
        baseline=name == SCRATCH,
    )
