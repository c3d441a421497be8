"""The parts of a report page: HTML and SVG text that needs nothing from outside the file."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6474; --paper: #ffffff;
  --panel: #f3f5f8; --line: #d5dae2; --accent: #1f6fc4; --second: #c2601b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa4b5; --paper: #14181f;
  --panel: #1d232d; --line: #353d4b; --accent: #6db1f5; --second: #f0a060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 50rem; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .86em; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.total td { font-weight: 600; }
dl { display: grid; grid-template-columns: 11rem 1fr; gap: .3rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.row { display: grid; gap: .5rem; margin: .5rem 0 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
.legend span { display: inline-block; margin-right: 1rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em;
  border-radius: 2px; }
.box { border-left: 4px solid var(--second); background: var(--panel); padding: .5rem 1rem; }
.viewer { margin: .8rem 0 1.4rem; }
.stage { height: min(70vh, 34rem); background: #10141b; color: #c9d1dd; border-radius: 6px;
  overflow: hidden; display: grid; place-items: center; touch-action: none; }
.controls:not([hidden]) { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; align-items: center;
  margin-bottom: .5rem; font-size: .9rem; }
.controls select, .controls button { font: inherit; max-width: 18rem; }
.controls input { vertical-align: middle; width: 7rem; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document. `title` is plain text, `body` is HTML."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *body,
            "</body>\n</html>\n",
        ]
    )


def definitions(rows: Mapping[str, str]) -> str:
    """A list of terms and their plain-text values."""
    items = (f"<dt>{escape(term)}</dt><dd>{escape(value)}</dd>" for term, value in rows.items())
    return f"<dl>{''.join(items)}</dl>"


def grid_text(image: str, grid: Mapping[str, Any]) -> str:
    """A teacher's measured grid for images of one size, such as "640 x 480", in words."""

    def pair(name: str) -> str:
        return " × ".join(f"{value:g}" for value in grid[name])

    first = ", ".join(f"{value:g}" for value in grid["offset"])
    return (
        f"{pair('cells')} cells for {image} px images seen at {pair('input_size')} px; one cell "
        f"every {pair('stride')} px, the first centred on pixel ({first})"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, totals: int = 0) -> str:
    """A table whose first column is text and whose others are numbers.

    Args:
        header: plain text.
        rows: plain text.
        totals: so many of the last rows stand out.
    """
    lines = [f"<tr>{_cells('th', header)}</tr>"]
    for number, row in enumerate(rows):
        kind = ' class="total"' if number >= len(rows) - totals else ""
        lines.append(f"<tr{kind}>{_cells('td', row)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _cells(tag: str, texts: Sequence[str]) -> str:
    first, *numbers = texts
    cells = [f"<{tag}>{escape(first)}</{tag}>"]
    cells += [f'<{tag} class="number">{escape(text)}</{tag}>' for text in numbers]
    return "".join(cells)


def figures(pictures: Mapping[str, UInt8[np.ndarray, "height width channels"]]) -> str:
    """Pictures side by side, each under its plain-text caption."""
    items = [
        f'<figure><img alt="{escape(caption)}" src="{data_uri(picture)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, picture in pictures.items()
    ]
    return f'<div class="row">{"".join(items)}</div>'


def data_uri(picture: UInt8[np.ndarray, "height width channels"]) -> str:
    """A PNG inside a URI."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def legend(colors: Mapping[str, Sequence[int]]) -> str:
    """Names beside their colours."""
    items = (
        f'<span><i style="background:rgb({r},{g},{b})"></i>{escape(name)}</span>'
        for name, (r, g, b) in colors.items()
    )
    return f'<p class="legend soft">{"".join(items)}</p>'


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 46, 12, 12, 34


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
    ticks = np.linspace(low, high, 5)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)} per step" '
        f'style="max-width:{WIDTH}px;width:100%">'
    ]
    for tick in ticks:
        y = _y(float(tick), low, high)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="var(--line)"/>')
        parts.append(_text(LEFT - 6, y + 4, "end", f"{tick:.3g}"))
    y = _y(reference, low, high)
    right, foot = WIDTH - RIGHT, HEIGHT - 10
    thick = f"{label}; thick: mean of {window} steps"
    parts += [
        f'<path d="M{LEFT} {y:.1f}H{right}" stroke="var(--second)" stroke-dasharray="6 4"/>',
        _text(right, y - 5, "end", reference_name),
        _line(values, low, high, 'stroke-opacity=".35"'),
        _line(_running_mean(values, window), low, high, 'stroke-width="2.5"'),
        _text(LEFT, foot, "start", "step 1"),
        _text(right, foot, "end", f"step {len(values)}"),
        _text(WIDTH / 2, foot, "middle", thick),
        "</svg>",
    ]
    return "".join(parts)


def _text(x: float | int, y: float | int, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _line(values: Sequence[float], low: float, high: float, style: str) -> str:
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
