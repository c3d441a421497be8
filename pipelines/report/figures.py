"""The plots of a page, drawn by matplotlib as SVG in the page's colours, light or dark."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

SIZE_INCHES = (5.6, 3.1)
MOST_NAMED, MOST_DRAWN = 8, 1500
Number = float | int
INK, SOFT, LINE = "#010101", "#020202", "#030303"
COLORS = ("#040404", "#050505", "#060606", "#070707")
"""Colours of lines other than baselines; they repeat."""
VARIABLES = dict(
    zip(
        (INK, SOFT, LINE, *COLORS),
        ("ink", "soft", "line", "accent", "second", "hit", "miss"),
        strict=True,
    )
)
"""The page's colour for each colour that matplotlib draws with."""


@dataclass(frozen=True)
class Series:
    """One line of a plot.

    Args:
        name: plain text.
        x, y: of its points; x rises.
        error: half the height of each point's bar; empty draws no bars.
        baseline: dashed and grey.
    """

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    error: Sequence[Number] = ()
    baseline: bool = False


def plot(lines: Sequence[Series], *, x_label: str, y_label: str, log_x: bool = False) -> Markup:
    """Lines with a marker at each point and a legend.

    Args:
        lines: each with at least one point.
        x_label: plain text, with the unit.
        y_label: the same.
        log_x: logarithmic x axis; all x must be positive.
    """
    figure, axes = _axes(x_label, y_label)
    colors = iter(COLORS * len(lines))
    for line in lines:
        color = SOFT if line.baseline else next(colors)
        axes.errorbar(
            line.x,
            line.y,
            line.error or None,
            marker="o",
            capsize=3,
            label=line.name,
            color=color,
            linestyle="--" if line.baseline else "-",
        )
    if log_x:
        axes.set_xscale("log")
    every = sorted({x for line in lines for x in line.x})
    named = every[:: -(-len(every) // MOST_NAMED)]
    axes.set_xticks(named, [f"{x:g}" for x in named], minor=False)
    axes.set_xticks([], minor=True)
    axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, f"{y_label} by {x_label}")


def curve(
    values: Sequence[Number],
    *,
    label: str,
    reference: Number | None = None,
    reference_name: str = "",
) -> Markup:
    """One value per step: each step thin, their running mean thick, a dashed reference.

    Args:
        values: of the steps 1, 2, …
        label: of the vertical axis.
        reference: height of the dashed line; None draws none.
        reference_name: its plain-text name.
    """
    window = max(len(values) // 20, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    mean = (sums[last] - sums[first]) / (last - first)
    figure, axes = _axes("step", label)
    shown = slice(None, None, -(-len(values) // MOST_DRAWN))
    axes.plot(last[shown], np.asarray(values)[shown], color=COLORS[0], alpha=0.4, linewidth=0.8)
    name = f"mean of {window} steps" if window > 1 else "each step"
    axes.plot(last[shown], mean[shown], color=COLORS[0], linewidth=2, label=name)
    if reference is not None:
        axes.axhline(reference, color=COLORS[1], linestyle="--", label=reference_name)
    axes.set_ylim(bottom=min(0.0, float(np.min(values))))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.legend(frameon=False, labelcolor=INK)
    return _svg(figure, f"{label} by step")


def profile(steps: Sequence[Number], scores: Sequence[Number], *, name: str, unit: str) -> Markup:
    """Scores along one kind of displacement, with lines at displacement 0 and score 0."""
    figure, axes = _axes(f"{name} ({unit})", "score")
    axes.axhline(0, color=LINE)
    axes.axvline(0, color=COLORS[1], linestyle="--")
    axes.plot(steps, scores, color=COLORS[0], linewidth=2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return _svg(figure, f"score by {name}")


def histogram(names: Sequence[str], shares: Sequence[Number], *, label: str) -> Markup:
    """Horizontal bars of shares (0 to 1), the first name on top."""
    figure, axes = _axes("pairs, %", label)
    percents = [100 * share for share in shares]
    bars = axes.barh(names, percents, color=COLORS[0])
    axes.bar_label(bars, [f"{value:.1f}" for value in percents], color=SOFT, padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False)
    return _svg(figure, f"{label} of pairs")


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(SIZE_INCHES, layout="constrained", facecolor="none")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.set_xlabel(x_label, color=SOFT)
    axes.set_ylabel(y_label, color=SOFT)
    axes.tick_params(colors=LINE, labelcolor=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an element of a page, without a size and with no ids but those it refers to."""
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "p2pkit"}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    drawn = re.sub(r"<metadata>.*?</metadata>", "", file.getvalue(), flags=re.DOTALL)
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', drawn))
    drawn = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", drawn)
    for color, variable in VARIABLES.items():
        drawn = drawn.replace(color, f"var(--{variable})")
    width, height = (f"{72 * inches:g}" for inches in SIZE_INCHES)
    body = drawn.partition("<svg")[2].partition(">")[2]
    return Markup(
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )
