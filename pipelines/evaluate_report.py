"""The report of an evaluation: JSON, Markdown tables, and a plot for each mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2pkit.evaluation.intervals import Difference, mean_and_deviation, paired_difference
from p2pkit.files import write_atomic, write_json

SCRATCH = "scratch"
FORMAT = "p2pkit-evaluation"
HEADER = (
    "labels, % of scenes",
    "frames",
    "weights",
    "mIoU, %",
    "accuracy, %",
    "difference to scratch, 95 % interval",
    "n",
)
READING = (
    "Differences are paired by seed: the same scenes, the same initial weights of the head. "
    "The interval is Student's; where it holds 0, nothing is shown."
)
Cells = Sequence[dict[str, Any]]


def write_report(out: Path, card: dict[str, Any], cells: Cells) -> Path:
    """Write report.json, report.md and MODE.png into `out`; gives the path of report.json."""
    modes = list(dict.fromkeys(cell["mode"] for cell in cells))
    tables = {mode: _rows([cell for cell in cells if cell["mode"] == mode]) for mode in modes}
    report = {"format": FORMAT, "protocol": card, "tables": tables}
    for mode in modes:
        _plot(out / f"{mode}.png", mode, tables[mode])
    write_atomic(out / "report.md", _markdown(card, tables).encode())
    write_json(out / "report.json", {**report, "cells": list(cells)})
    return out / "report.json"


def card_line(card: dict[str, Any]) -> str:
    """The protocol card in one line, to be printed with every figure."""
    frames, scenes = card["frames"], card["scenes"]
    parts = ", ".join(f"{name} {frames[name]} frames of {scenes[name]} scenes" for name in frames)
    return (
        f"{card['dataset']}, {len(card['classes'])} classes ({card['label_set']}); {parts}; "
        f"fractions in {card['fraction_unit']}; {card['student']['student']} at "
        f"{100 * card['voxel_size_m']:g} cm; {card['test_time']}; {card['metric']}"
    )


def seen_line(card: dict[str, Any]) -> str:
    """How many test frames pretraining saw; empty where none."""
    seen = {name: count for name, count in card["pretrained_on_test_frames"].items() if count}
    told = ", ".join(f"{name} {count}" for name, count in seen.items())
    return f"Test frames that pretraining saw, without labels: {told}." if seen else ""


def _rows(cells: Cells) -> list[dict[str, Any]]:
    """One row for each fraction and set of weights, with its paired difference to scratch."""
    rows: list[dict[str, Any]] = []
    for percent in dict.fromkeys(cell["percent"] for cell in cells):
        of_percent = [cell for cell in cells if cell["percent"] == percent]
        scratch = {c["seed"]: c["miou"] for c in of_percent if c["name"] == SCRATCH}
        for name in dict.fromkeys(cell["name"] for cell in of_percent):
            own = {cell["seed"]: cell for cell in of_percent if cell["name"] == name}
            values = [cell["miou"] for cell in own.values()]
            mean, deviation = mean_and_deviation(values)
            row: dict[str, Any] = {
                "percent": percent,
                "name": name,
                "seeds": len(values),
                "frames": [cell["frames"] for cell in own.values()],
                "miou": mean,
                "miou_sd": deviation,
                "accuracy": mean_and_deviation([c["accuracy"] for c in own.values()])[0],
            }
            if name != SCRATCH:
                found = paired_difference(values, [scratch[seed] for seed in own])
                row["difference"] = {**vars(found), "is_clear": found.is_clear}
            rows.append(row)
    return rows


def _markdown(card: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["# Evaluation", "", card_line(card), ""]
    seen = seen_line(card)
    if seen:
        lines += [seen, ""]
    for mode, rows in tables.items():
        lines += [
            f"## {mode}",
            "",
            f"| {' | '.join(HEADER)} |",
            "|--:|--:|---|--:|--:|---|--:|",
            *map(_line, rows),
            "",
            f"![mIoU by label fraction]({mode}.png)",
            "",
        ]
    lines.append(READING)
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    return "| " + " | ".join(row_texts(row)) + " |"


def row_texts(row: dict[str, Any]) -> list[str]:
    """A row of a table in the order of `HEADER`, as text."""
    frames = sorted(set(row["frames"]))
    counted = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}–{frames[-1]}"
    score = f"{100 * row['miou']:.1f}"
    if row["miou_sd"] is not None:
        score += f" ± {100 * row['miou_sd']:.1f}"
    difference = "" if "difference" not in row else _told(row["difference"])
    accuracy = f"{100 * row['accuracy']:.1f}"
    cells = [f"{row['percent']:g}", counted, row["name"], score, accuracy, difference]
    return [*cells, str(row["seeds"])]


def _told(value: dict[str, Any]) -> str:
    found = Difference(value["mean"], value["low"], value["high"], value["pairs"])
    text = f"{100 * found.mean:+.1f}"
    if found.low is None or found.high is None:
        return f"{text} (one seed: no interval)"
    return f"{text} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _plot(path: Path, mode: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        percents = [row["percent"] for row in own]
        scores = [100 * row["miou"] for row in own]
        bars = [100 * (row["miou_sd"] or 0.0) for row in own]
        line = "--" if name == SCRATCH else "-"
        axes.errorbar(percents, scores, bars, marker="o", capsize=3, label=name, linestyle=line)
    axes.set_xscale("log")
    axes.set_xticks([row["percent"] for row in rows], [f"{row['percent']:g}" for row in rows])
    axes.set(xlabel="labelled scenes, %", ylabel="mIoU, %", title=f"{mode} (± standard deviation)")
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
