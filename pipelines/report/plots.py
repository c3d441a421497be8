"""The plots of a report page: SVG text in the page's own colours, light or dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 280, 46, 12, 26, 40
Number = float | int
INSET, MOST_NAMED = 30, 12
BASELINE_COLOR = "var(--soft)"
COLORS = ("var(--accent)", "var(--second)", "var(--hit)", "var(--miss)")
"""Of lines that are no baseline; they repeat."""


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Args:
        name: plain text.
        x, y: of its points; x rises.
        error: half the height of each point's bar; none at all draws no bars.
        baseline: dashed and grey.
    """

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    error: Sequence[Number] = ()
    baseline: bool = False


def curve(values: Sequence[float], *, reference: float, reference_name: str, label: str) -> str:
    """One value per step as an SVG: each step thin, their running mean thick, a dashed reference.

    Args:
        values: of the steps 0, 1, …
        reference: height of the dashed line.
        reference_name: its plain-text name.
        label: of the vertical axis.
    """
    window = max(len(values) // 20, 1)
    low, high = min(0.0, *values), max(*values, reference) * 1.04
    y = _y(reference, low, high)
    right, foot = WIDTH - RIGHT, HEIGHT - BOTTOM + 16
    parts = [
        *_axes(f"{label} per step", low, high),
        f'<path d="M{LEFT} {y:.1f}H{right}" stroke="var(--second)" stroke-dasharray="6 4"/>',
        _text(right, y - 5, "end", reference_name),
        _step_line(values, low, high, 'stroke-opacity=".35"'),
        _step_line(_running_mean(values, window), low, high, 'stroke-width="2.5"'),
        _text(LEFT, TOP - 10, "start", f"{label}; thick: mean of {window} steps"),
        _text(LEFT, foot, "start", "step 1"),
        _text(right, foot, "end", f"step {len(values)}"),
        "</svg>",
    ]
    return "".join(parts)


def plot(lines: Sequence[Series], *, x_label: str, y_label: str, log_x: bool = False) -> str:
    """Lines with a marker at each point as an SVG, and their names below it.

    Args:
        lines: each with at least one point.
        x_label: plain text, with the unit.
        y_label: the same.
        log_x: equal factors of x are equally far apart; all x are above 0.
    """
    tops = [y + error for line in lines for _, y, error in _points(line)]
    feet = [y - error for line in lines for _, y, error in _points(line)]
    room = 0.08 * (max(tops) - min(feet)) or 1.0
    low, high = max(min(feet) - room, 0.0), max(tops) + room
    every = sorted({x for line in lines for x in line.x})
    place = np.log(every) if log_x else np.array(every, dtype=np.float64)
    share = (place - place[0]) / (np.ptp(place) or 1.0)
    across = dict(
        zip(every, LEFT + INSET + share * (WIDTH - LEFT - RIGHT - 2 * INSET), strict=True)
    )
    parts = _axes(f"{y_label} by {x_label}", low, high)
    named = every[:: -(-len(every) // MOST_NAMED)]
    parts += [_text(across[x], HEIGHT - BOTTOM + 16, "middle", f"{x:g}") for x in named]
    parts.append(_text(WIDTH / 2, HEIGHT - 6, "middle", x_label))
    parts.append(_text(LEFT, TOP - 10, "start", y_label))
    colors = _colors(lines)
    for color, line in zip(colors, lines, strict=True):
        parts += _drawn(line, across, (low, high), color)
    names = (
        f'<span><i style="background:{color}"></i>{escape(line.name)}</span>'
        for color, line in zip(colors, lines, strict=True)
    )
    return f'{"".join(parts)}</svg><p class="legend soft">{"".join(names)}</p>'


def _points(line: Series) -> list[tuple[Number, Number, Number]]:
    return list(zip(line.x, line.y, line.error or [0.0] * len(line.x), strict=True))


def _colors(lines: Sequence[Series]) -> list[str]:
    own = [line for line in lines if not line.baseline]
    return [
        BASELINE_COLOR if line.baseline else COLORS[own.index(line) % len(COLORS)] for line in lines
    ]


def _drawn(
    line: Series, across: Mapping[Number, Number], limits: tuple[float, float], color: str
) -> list[str]:
    dash = ' stroke-dasharray="6 4"' if line.baseline else ""
    way = " ".join(f"{across[x]:.1f},{_y(y, *limits):.1f}" for x, y, _ in _points(line))
    parts = [f'<polyline points="{way}" fill="none" stroke="{color}" stroke-width="2"{dash}/>']
    for x, y, error in _points(line):
        at, top, foot = across[x], _y(y + error, *limits), _y(y - error, *limits)
        bar = f"M{at:.1f} {top:.1f}V{foot:.1f}M{at - 4:.1f} {top:.1f}h8M{at - 4:.1f} {foot:.1f}h8"
        if error > 0:
            parts.append(f'<path d="{bar}" stroke="{color}" fill="none"/>')
        parts.append(f'<circle cx="{at:.1f}" cy="{_y(y, *limits):.1f}" r="4" fill="{color}"/>')
    return parts


def _axes(told: str, low: float, high: float) -> list[str]:
    """The opening tag, which says what is drawn, and the horizontal lines with their values."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}" '
        f'style="max-width:{WIDTH}px;width:100%">'
    ]
    for tick in MaxNLocator(4).tick_values(low, high):
        if not low <= tick <= high:
            continue
        y = _y(tick, low, high)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--line)"/>')
        parts.append(_text(LEFT - 6, y + 4, "end", f"{tick:.4g}"))
    return parts


def _text(x: Number, y: Number, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _y(value: Number, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _step_line(values: Sequence[float], low: float, high: float, style: str) -> str:
    across = (WIDTH - LEFT - RIGHT) / max(len(values) - 1, 1)
    points = " ".join(
        f"{LEFT + step * across:.1f},{_y(value, low, high):.1f}"
        for step, value in enumerate(values)
    )
    return f'<polyline points="{points}" fill="none" stroke="var(--accent)" {style}/>'


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    return [
        float(np.mean(values[max(0, step - window + 1) : step + 1])) for step in range(len(values))
    ]
