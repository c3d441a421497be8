"""The parts of a report page: HTML text that needs nothing from outside the file."""

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
  --panel: #f3f5f8; --line: #d5dae2; --accent: #1f6fc4; --second: #c2601b;
  --hit: #1a8a4a; --miss: #c43d3d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #9aa4b5; --paper: #14181f;
  --panel: #1d232d; --line: #353d4b; --accent: #6db1f5; --second: #f0a060;
  --hit: #4cc47f; --miss: #f07a7a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } summary { cursor: pointer; }
p { max-width: 50rem; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .86em; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
tr.total td { font-weight: 600; }
dl { display: grid; grid-template-columns: 11rem 1fr; gap: .3rem 1rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.row { display: grid; gap: .5rem; margin: .5rem 0 1.1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); }
.crops { grid-template-columns: minmax(13rem, 2.4fr) repeat(5, minmax(7rem, 1fr)); }
.crops, .nearest { overflow-x: auto; align-items: start; }
.nearest { grid-template-columns: repeat(4, minmax(11rem, 1fr)); }
.nearest .query { grid-row: span 2; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; border-radius: 4px;
  background: var(--panel); }
figcaption { line-height: 1.4; margin-top: .2rem; overflow-wrap: anywhere; }
.hit img { outline: 3px solid var(--hit); outline-offset: -3px; }
.miss img { outline: 3px dashed var(--miss); outline-offset: -3px; }
.legend span { display: inline-block; margin-right: 1rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em;
  border-radius: 2px; }
.box { border-left: 4px solid var(--second); background: var(--panel); padding: .5rem 1rem; }
.viewer { margin: .8rem 0 1.4rem; }
.stage { height: min(70vh, 34rem); background: #10141b; color: #c9d1dd; border-radius: 6px;
  border: 1px solid var(--line);
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
    size = image.replace("x", " × ")
    return (
        f"{pair('cells')} cells for {size} px images seen at {pair('input_size')} px; one cell "
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
    items = [figure(picture, [caption]) for caption, picture in pictures.items()]
    return f'<div class="row">{"".join(items)}</div>'


def figure(
    picture: UInt8[np.ndarray, "height width channels"], lines: Sequence[str], *, kind: str = ""
) -> str:
    """A picture over the plain-text lines of its caption.

    Args:
        picture: RGB or RGBA.
        lines: of the caption; the first one also stands for the picture where it is not shown.
        kind: `hit` or `miss` colours its edge, `query` sets it apart.
    """
    caption = "<br>".join(escape(line) for line in lines)
    style = f' class="{kind}"' if kind else ""
    return (
        f'<figure{style}><img alt="{escape(lines[0])}" src="{data_uri(picture)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def data_uri(picture: UInt8[np.ndarray, "height width channels"]) -> str:
    """A WebP picture inside a URI; a fifth of a PNG's size, and what is lost does not show."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def legend(colors: Mapping[str, Sequence[int]]) -> str:
    """Names beside their colours."""
    items = (
        f'<span><i style="background:rgb({r},{g},{b})"></i>{escape(name)}</span>'
        for name, (r, g, b) in colors.items()
    )
    return f'<p class="legend soft">{"".join(items)}</p>'
