"""The report of an evaluation: JSON, Markdown tables, and a plot for each mode."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from p2pkit.evaluation.detection import Matches, mean_average_precision
from p2pkit.evaluation.intervals import (
    LEVEL,
    bootstrap_interval,
    holm,
    mean_and_deviation,
    paired_difference,
    resampled_interval,
)
from p2pkit.files import write_json, write_text
from p2pkit.pipelines.evaluate.detect import stored_matches
from p2pkit.pipelines.evaluate.split import UNIT_WORDS, shared_scenes
from p2pkit.pipelines.evaluate.weights import BASELINES, SCRATCH
from p2pkit.stream.inputs import voxels_text

FORMAT = "p2pkit-evaluation"
Cells = Sequence[dict[str, Any]]
DETECT = "detect"
TRAINED = ("finetune", DETECT)
"""Modes that train the student, with the settings of `finetune`."""
APART = ("miou_seen", "miou_unseen")


class Metric(NamedTuple):
    """A score in cells and rows: its key there, and its name."""

    key: str
    name: str


_METRICS = {DETECT: (Metric("map25", "mAP at IoU 0.25"), Metric("map50", "mAP at IoU 0.5"))}
_SEGMENTATION = (Metric("miou", "mIoU"), Metric("accuracy", "accuracy"))


def main_metric(mode: str) -> Metric:
    """What differences and intervals of a mode are of."""
    return _metrics(mode)[0]


def _metrics(mode: str) -> tuple[Metric, Metric]:
    return _METRICS.get(mode, _SEGMENTATION)


INTERVAL = f"{100 * LEVEL:g} % interval"


def write_report(
    out: Path, card: dict[str, Any], cells: Cells, *, repeated: Sequence[Sequence[str]] = ()
) -> Path:
    """Write report.json, report.md and MODE.png into `out`; return the path of report.json.

    Args:
        out: the evaluation's folder.
        card: its protocol; the report's card also says which learning rates were chosen.
        cells: with their `counts` or `matches` by test scene, which are not in the report.
        repeated: names of runs that are averaged within each draw, in a row of their own.
    """
    card = {**card, **_chosen_rates(cells)}
    modes = list(dict.fromkeys(cell["mode"] for cell in cells))
    tables = {
        mode: _rows([cell for cell in cells if cell["mode"] == mode], repeated) for mode in modes
    }
    report = {"format": FORMAT, "protocol": card, "tables": tables}
    for mode in modes:
        _plot(out / f"{mode}.png", mode, card, tables[mode])
    write_text(out / "report.md", _markdown(card, tables))
    bulky = ("counts", "matches")
    short = [{name: cell[name] for name in cell if name not in bulky} for cell in cells]
    write_json(out / "report.json", {**report, "cells": short})
    return out / "report.json"


def _chosen_rates(cells: Cells) -> dict[str, Any]:
    """How often fine-tuning chose each learning rate, by the name of the weights."""
    rates: dict[str, Counter[str]] = {}
    for cell in cells:
        if "tested_rate" in cell:
            rates.setdefault(cell["name"], Counter())[f"{cell['tested_rate']:g}"] += 1
    return {"finetune_rates": {name: dict(found) for name, found in rates.items()}} if rates else {}


def card_line(card: dict[str, Any]) -> str:
    """The protocol card in one line, printed with every figure."""
    frames, scenes, unit = card["frames"], card["scenes"], _unit(card)
    parts = ", ".join(f"{name} {frames[name]} frames of {scenes[name]} {unit}" for name in frames)
    turned = "up_axis" in card and card.get("points") != "as they are stored"
    named = card.get("split", {}).get("test_scenes")
    parts += f" ({_test_part(named, card)})" if named else ""
    return (
        f"{card['dataset']}, {len(card['classes'])} classes ({card['label_set']}); {parts}; "
        f"fractions in {card['fraction_unit']}; {card['student']['student']} on "
        f"{_inputs_text(card)} in {voxels_text(card)}; {card['test_time']}; "
        f"{'points turned to the axes of pretraining; ' if turned else ''}{card['metric']}"
    )


def _inputs_text(card: dict[str, Any]) -> str:
    """The student's inputs, and which of them were 0 in every frame."""
    blank = f" ({', '.join(card['blank'])} blank)" if "blank" in card else ""
    return f"{', '.join(card['inputs'])}{blank}"


def _test_part(named: Sequence[str], card: dict[str, Any]) -> str:
    """Which scenes are tested on, and whether as the benchmark does."""
    if "not_as_published" not in card:
        return f"test scenes {', '.join(named)}"
    reasons = "; ".join(card["not_as_published"])
    return f"official test part, {f'not as published: {reasons}' if reasons else 'as published'}"


def _unit(card: dict[str, Any]) -> str:
    return UNIT_WORDS[card.get("split", {}).get("unit", "scene")]


def header(card: dict[str, Any], mode: str) -> tuple[str, ...]:
    """The table's columns; the first names the unit of the fractions."""
    main, other = _metrics(mode)
    shared = ", one place" if "warning" in card else ""
    return (
        f"labels, % ({_unit(card)}{shared})",
        "frames",
        "weights",
        f"{main.name}, %",
        f"{other.name}, %",
        f"difference from scratch, {INTERVAL} over draws",
        f"{INTERVAL} over test {_unit(card)}",
        "difference from the better baseline",
        "n",
    )


def reading(card: dict[str, Any]) -> str:
    """How to read the table's intervals."""
    unit = _unit(card)
    return (
        f"Differences are paired by seed: the same {unit}, the same initial weights of the head. "
        "The interval over draws is Student's, wider if draws share labels (Nadeau and Bengio "
        "2003); if it contains 0, no difference is shown. It covers these draws only: how much "
        "another pretraining would differ is not included; runs that differ in their seeds alone "
        "are averaged within each draw in a row of their own. With the labels of all "
        f"{unit} there is only one draw, so no interval over {unit} exists. The second interval is "
        f"a bootstrap over the test {unit}, with these draws fixed. The better baseline has the "
        f"higher mean of {' and '.join(BASELINES)}; for fine-tuning and detection it is {SCRATCH}."
    )


def apart_line(rows: Sequence[dict[str, Any]]) -> str:
    """The mIoU over the points that a camera sees and over the others; empty where all are seen."""
    found = [
        f"{row['name']} at {_share(row)} % "
        + " and ".join(f"{100 * row[name]:.1f}" for name in APART)
        for row in rows
        if all(name in row for name in APART)
    ]
    what = "mIoU over the points that a camera sees, and over those that none sees: "
    return f"{what}{'; '.join(found)}." if found else ""


def chance_line(rows: Sequence[dict[str, Any]]) -> str:
    """How many of a table's intervals may exclude 0 by chance; empty without intervals."""
    found = [row for row in rows if row.get("difference", {}).get("p") is not None]
    if not found:
        return ""
    clear = sum(row["difference"]["is_clear"] for row in found)
    sure = [
        f"{row['name']} at {_share(row)} %" for row in found if row["difference"]["holm_p"] < 0.05
    ]
    return (
        f"Of {len(found)} intervals over draws {clear} exclude 0; without any effect, about "
        f"{(1 - LEVEL) * len(found):.2g} would by chance. Significant after correction for "
        f"multiple tests (Holm): {', '.join(sure) or 'none'}."
    )


def headline(rows: Sequence[dict[str, Any]], card: dict[str, Any]) -> str:
    """Each set of weights at the largest share of labels, against the better trivial baseline."""
    most = max(row["scenes"] for row in rows)
    main = metrics_of(rows[0])[0]
    texts = [
        f"{row['name']} {100 * row[main.key]:.1f} {main.name} against "
        f"{100 * row['baseline'][main.key]:.1f} of {row['baseline']['name']}"
        for row in rows
        if row["scenes"] == most and "baseline" in row
    ]
    labels = f"the labels of {most} of {card['scenes']['train']} {_unit(card)}"
    return f"With {labels}: {'; '.join(texts)}, the better trivial baseline."


def seen_line(card: dict[str, Any]) -> str:
    """How many test frames pretraining saw; empty if none."""
    seen = {name: count for name, count in card["pretrained_on_test_frames"].items() if count}
    counts = ", ".join(f"{name} {count}" for name, count in seen.items())
    return f"Test frames that pretraining saw, without labels: {counts}." if seen else ""


def choice_line(mode: str, card: dict[str, Any]) -> str:
    """Which weights a mode tests; empty for modes without training."""
    if mode not in TRAINED:
        return ""
    main = main_metric(mode).name
    settings, part = card["settings"]["finetune"], card["frames"]["validation"]
    rates = "; ".join(
        f"{name} {', '.join(f'{rate} ({times} ×)' for rate, times in chosen.items())}"
        for name, chosen in card.get("finetune_rates", {}).items()
    )
    tested = f" Peak rates of the student that were tested: {rates}." if rates else ""
    if settings["choose"] == "last":
        return (
            f"The weights of the last of {settings['steps']} steps were tested; no validation "
            f"frame was used.{tested}"
        )
    return (
        f"The weights tested have the best {main} on {min(settings['validation_frames'], part)} of "
        f"the {part} validation frames, from {settings['validations']} validations in "
        f"{settings['steps']} steps.{tested}"
    )


def steps_line(rows: Sequence[dict[str, Any]]) -> str:
    """Which steps were tested how often; empty if the rows do not record it."""
    steps_of: list[str] = []
    for name in dict.fromkeys(row["name"] for row in rows):
        steps = [step for row in rows if row["name"] == name for step in row.get("tested", ())]
        counts = ", ".join(f"{step} ({steps.count(step)} ×)" for step in sorted(set(steps)))
        steps_of += [f"{name} {counts}"] if counts else []
    return f"Steps whose weights were tested: {'; '.join(steps_of)}." if steps_of else ""


def _rows(cells: Cells, repeated: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """One row for each number of labelled scenes and set of weights, with its differences."""
    rows: list[dict[str, Any]] = []
    for scenes in dict.fromkeys(cell["scenes"] for cell in cells):
        by_name: dict[str, list[dict[str, Any]]] = {}
        for cell in cells:
            if cell["scenes"] == scenes:
                by_name.setdefault(cell["name"], []).append(cell)
        found = [_row(own) for own in by_name.values()]
        key = metrics_of(found[0])[0].key
        best = max((row for row in found if row["name"] in BASELINES), key=lambda row: row[key])
        baseline = {"baseline": {"name": best["name"], key: best[key]}}
        for row in found:
            if row["name"] not in BASELINES:
                own = by_name[row["name"]]
                row |= _differences(own, by_name[SCRATCH], tested=own) | baseline
        for names in repeated:
            runs = [by_name[name] for name in names]
            mean = [_mean_cell(draw) for draw in zip(*runs, strict=True)]
            tested = [cell for run in runs for cell in run]
            differences = _differences(mean, by_name[SCRATCH], tested=tested)
            found.append(_row(mean) | differences | baseline)
        rows += found
    _correct(rows)
    return rows


def _row(cells: Cells) -> dict[str, Any]:
    """Means over the draws of one set of weights."""
    main, other = _metrics(cells[0]["mode"])
    mean, deviation = mean_and_deviation([cell[main.key] for cell in cells])
    row: dict[str, Any] = {
        **{name: cells[0][name] for name in ("percent", "scenes", "asked", "name")},
        "seeds": len(cells),
        "frames": [cell["frames"] for cell in cells],
        main.key: mean,
        f"{main.key}_sd": deviation,
        other.key: mean_and_deviation([cell[other.key] for cell in cells])[0],
    }
    for name in APART:
        if all(name in cell for cell in cells):
            row[name] = mean_and_deviation([cell[name] for cell in cells])[0]
    if all("tested_step" in cell for cell in cells):
        row["tested"] = [cell["tested_step"] for cell in cells]
    return row


def _mean_cell(cells: Cells) -> dict[str, Any]:
    """One draw's cells of runs that differ in their seeds alone, averaged."""
    scores = [metric.key for metric in _metrics(cells[0]["mode"])]
    scores += [name for name in APART if all(name in cell for cell in cells)]
    shared = ("mode", "percent", "scenes", "asked", "seed", "frames", "drawn")
    return {
        **{name: cells[0][name] for name in shared},
        "name": f"mean of {', '.join(cell['name'] for cell in cells)}",
        **{name: float(np.mean([cell[name] for cell in cells])) for name in scores},
    }


def _differences(own: Cells, scratch: Cells, *, tested: Cells) -> dict[str, Any]:
    """The paired difference from scratch, with intervals over the draws and over the test scenes.

    Args:
        own: one cell for each draw.
        scratch: the same of random weights.
        tested: the cells with counts by test scene that `own` summarises.
    """
    key = main_metric(own[0]["mode"]).key
    found = paired_difference(
        [cell[key] for cell in own],
        [cell[key] for cell in scratch],
        shared=shared_scenes([cell["drawn"] for cell in own]),
    )
    return {
        "difference": {**vars(found), "is_clear": found.is_clear},
        "test_interval": _test_interval(tested, scratch),
    }


def metrics_of(row: dict[str, Any]) -> tuple[Metric, Metric]:
    """The metrics of a row, which has those of its mode only."""
    return next(both for both in (*_METRICS.values(), _SEGMENTATION) if both[0].key in row)


def _test_interval(own: Cells, scratch: Cells) -> tuple[float, float] | None:
    if own[0]["mode"] != DETECT:
        return bootstrap_interval(_counts(own), _counts(scratch))
    scores = [[partial(_map25, stored_matches(cell)) for cell in cells] for cells in (own, scratch)]
    matches = own[0]["matches"]
    boxes = np.array(matches["boxes"], np.int64).sum(axis=1)
    return resampled_interval(*scores, scenes=len(matches["scenes"]), held=boxes)


def _map25(matches: Matches, times: Float64[np.ndarray, "resamples scenes"]) -> np.ndarray:
    return mean_average_precision(matches, times)[0]


def _counts(cells: Cells) -> Int64[np.ndarray, "draws scenes 3 classes"]:
    scenes = list(cells[0]["counts"])
    return np.array([[cell["counts"][scene] for scene in scenes] for cell in cells], np.int64)


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Add p-values that are corrected for the number of intervals in the table."""
    differences = [row["difference"] for row in rows if "difference" in row]
    tested = [difference for difference in differences if difference["p"] is not None]
    for difference, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
        difference["holm_p"] = p


def _markdown(card: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["# Evaluation", "", card_line(card), ""]
    seen = seen_line(card)
    if "warning" in card:
        lines += [f"**{card['warning']}**", ""]
    if seen:
        lines += [seen, ""]
    for mode, rows in tables.items():
        choice = f"{choice_line(mode, card)} {steps_line(rows)}".strip()
        lines += [
            f"## {mode}",
            "",
            headline(rows, card),
            "",
            *([choice, ""] if choice else []),
            f"| {' | '.join(header(card, mode))} |",
            "|--:|--:|---|--:|--:|---|---|--:|--:|",
            *map(_line, rows),
            "",
            *([apart_line(rows), ""] if apart_line(rows) else []),
            *([chance_line(rows), ""] if chance_line(rows) else []),
            f"![{main_metric(mode).name} by label fraction]({mode}.png)",
            "",
        ]
    lines.append(reading(card))
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    return "| " + " | ".join(row_texts(row)) + " |"


def row_texts(row: dict[str, Any]) -> list[str]:
    """A row of a table in the order of `header`, as text."""
    frames = sorted(set(row["frames"]))
    counted = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}–{frames[-1]}"
    main, other = metrics_of(row)
    score = f"{100 * row[main.key]:.1f}"
    if row[f"{main.key}_sd"] is not None:
        score += f" ± {100 * row[f'{main.key}_sd']:.1f}"
    cells = [f"{_share(row)} ({row['scenes']})", counted, row["name"], score]
    cells.append(f"{100 * row[other.key]:.1f}")
    if "difference" not in row:
        return [*cells, "", "", "", str(row["seeds"])]
    found, tested = row["difference"], row["test_interval"]
    over_draws = f"{100 * found['mean']:+.1f}"
    over_draws += f" {_interval(found['low'], found['high'])}" if found["low"] is not None else ""
    over_scenes = "none: one scene" if tested is None else _interval(*tested)
    baseline = row["baseline"]
    better = f"{100 * (row[main.key] - baseline[main.key]):+.1f} ({baseline['name']})"
    return [*cells, over_draws, over_scenes, better, str(row["seeds"])]


def _share(row: dict[str, Any]) -> str:
    """The share of the labels that was used, which is one in whole scenes."""
    return f"{row['percent']:.3g}"


def _interval(low: float, high: float) -> str:
    return f"({100 * low:+.1f} to {100 * high:+.1f})"


def _plot(path: Path, mode: str, card: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    main = main_metric(mode)
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        percents = [row["percent"] for row in own]
        scores = [100 * row[main.key] for row in own]
        bars = [100 * (row[f"{main.key}_sd"] or 0.0) for row in own]
        line = "--" if name in BASELINES else "-"
        axes.errorbar(percents, scores, bars, marker="o", capsize=3, label=name, linestyle=line)
    axes.set_xscale("log")
    shares = {row["percent"]: _share(row) for row in rows}
    axes.set_xticks(list(shares), list(shares.values()))
    title = f"{mode} (± standard deviation)"
    title += "\nall parts are of one place" if "warning" in card else ""
    axes.set(xlabel=f"labelled {_unit(card)}, %", ylabel=f"{main.name}, %", title=title)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
