"""The report of an evaluation: JSON, Markdown tables, and a plot for each mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2pkit.evaluation.intervals import Difference, mean_and_deviation, paired_difference
from p2pkit.files import write_atomic, write_json
from p2pkit.pipelines.evaluate.split import UNIT_WORDS
from p2pkit.pipelines.evaluate.weights import SCRATCH

FORMAT = "p2pkit-evaluation"
Cells = Sequence[dict[str, Any]]


def write_report(out: Path, card: dict[str, Any], cells: Cells) -> Path:
    """Write report.json, report.md and MODE.png into `out`; gives the path of report.json."""
    modes = list(dict.fromkeys(cell["mode"] for cell in cells))
    tables = {mode: _rows([cell for cell in cells if cell["mode"] == mode]) for mode in modes}
    report = {"format": FORMAT, "protocol": card, "tables": tables}
    for mode in modes:
        _plot(out / f"{mode}.png", mode, card, tables[mode])
    write_atomic(out / "report.md", _markdown(card, tables).encode())
    write_json(out / "report.json", {**report, "cells": list(cells)})
    return out / "report.json"


def card_line(card: dict[str, Any]) -> str:
    """The protocol card in one line, to be printed with every figure."""
    frames, scenes, unit = card["frames"], card["scenes"], _unit(card)
    parts = ", ".join(f"{name} {frames[name]} frames of {scenes[name]} {unit}" for name in frames)
    turned = "up_axis" in card and card.get("points") != "as they are stored"
    named = card.get("split", {}).get("test_scenes")
    parts += f" (test scenes {', '.join(named)})" if named else ""
    return (
        f"{card['dataset']}, {len(card['classes'])} classes ({card['label_set']}); {parts}; "
        f"fractions in {card['fraction_unit']}; {card['student']['student']} at "
        f"{100 * card['voxel_size_m']:g} cm; {card['test_time']}; "
        f"{'points turned to the axes of pretraining; ' if turned else ''}{card['metric']}"
    )


def _unit(card: dict[str, Any]) -> str:
    return UNIT_WORDS[card.get("split", {}).get("unit", "scene")]


def header(card: dict[str, Any]) -> tuple[str, ...]:
    """The table's columns; the first says what the fractions are of."""
    shared = ", one place" if "warning" in card else ""
    return (
        f"labels, % of {_unit(card)}{shared}",
        "frames",
        "weights",
        "mIoU, %",
        "accuracy, %",
        "difference to scratch, 95 % interval",
        "n",
    )


def reading(card: dict[str, Any]) -> str:
    """How the table's intervals are to be read."""
    return (
        f"Differences are paired by seed: the same {_unit(card)}, the same initial weights of the "
        "head. The interval is Student's; where it holds 0, nothing is shown. It is over these "
        "seeds alone: how much another pretraining would differ is not in it. At 100 % all seeds "
        f"have the same {_unit(card)}, so there it shows initial weights and order only."
    )


def seen_line(card: dict[str, Any]) -> str:
    """How many test frames pretraining saw; empty where none."""
    seen = {name: count for name, count in card["pretrained_on_test_frames"].items() if count}
    told = ", ".join(f"{name} {count}" for name, count in seen.items())
    return f"Test frames that pretraining saw, without labels: {told}." if seen else ""


def choice_line(mode: str, card: dict[str, Any]) -> str:
    """Which weights a mode tests; empty for modes that train none."""
    if mode != "finetune":
        return ""
    settings, part = card["settings"]["finetune"], card["frames"]["validation"]
    if settings["choose"] == "last":
        return (
            f"Tested are the weights of the last of {settings['steps']} steps; no validation frame "
            "was looked at."
        )
    return (
        f"Tested are the weights with the best mIoU on {min(settings['validation_frames'], part)} "
        f"of the {part} validation frames, out of {settings['validations']} looks in "
        f"{settings['steps']} steps."
    )


def steps_line(rows: Sequence[dict[str, Any]]) -> str:
    """Which steps were tested how often; empty where the rows do not know."""
    told: list[str] = []
    for name in dict.fromkeys(row["name"] for row in rows):
        steps = [step for row in rows if row["name"] == name for step in row.get("tested", ())]
        counts = ", ".join(f"{step} ({steps.count(step)} ×)" for step in sorted(set(steps)))
        told += [f"{name} {counts}"] if counts else []
    return f"Steps whose weights were tested: {'; '.join(told)}." if told else ""


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
            if all("tested_step" in cell for cell in own.values()):
                row["tested"] = [cell["tested_step"] for cell in own.values()]
            if name != SCRATCH:
                found = paired_difference(values, [scratch[seed] for seed in own])
                row["difference"] = {**vars(found), "is_clear": found.is_clear}
            rows.append(row)
    return rows


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
            *([choice, ""] if choice else []),
            f"| {' | '.join(header(card))} |",
            "|--:|--:|---|--:|--:|---|--:|",
            *map(_line, rows),
            "",
            f"![mIoU by label fraction]({mode}.png)",
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


def _plot(path: Path, mode: str, card: dict[str, Any], rows: list[dict[str, Any]]) -> None:
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
    title = f"{mode} (± standard deviation)"
    title += "\nall parts are of one place" if "warning" in card else ""
    axes.set(xlabel=f"labelled {_unit(card)}, %", ylabel="mIoU, %", title=title)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
