import re
from xml.etree import ElementTree

import pytest

from p2pkit.pipelines.report.figures import (
    COLORS,
    MOST_DRAWN,
    MOST_NAMED,
    Series,
    curve,
    histogram,
    plot,
    profile,
)

NUMBER = r"(-?[\d.]+)"


def paths(svg: str, variable: str) -> list[list[tuple[float, float]]]:
    """The points of each line in one of the page's colours."""
    lines = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--{variable}\)', svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(rf"[ML] {NUMBER} {NUMBER}", line)]
        for line in lines
    ]


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter("text")]


def test_a_curve_has_its_values_their_mean_and_a_named_reference() -> None:
    values = [3.0 - 0.01 * step for step in range(100)]
    svg = curve(values, label="loss", reference=4.0, reference_name="ln N")
    each, mean, *_ = paths(svg, "accent")
    heights = [y for _, y in each]
    assert heights == sorted(heights)
    assert each[0] == pytest.approx(mean[0], abs=0.1)
    assert mean[-1][1] < each[-1][1]  # the mean of a falling curve lies above it
    assert {"ln N", "mean of 5 steps", "loss", "step"} <= set(texts(svg))


def test_a_long_curve_is_thinned() -> None:
    values = [step % 7 for step in range(20 * MOST_DRAWN)]
    svg = curve(values, label="loss", reference=4.0, reference_name="ln N")
    assert all(len(line) <= MOST_DRAWN for line in paths(svg, "accent"))
    assert len(svg) < 200_000


def test_equal_factors_are_equally_far_apart() -> None:
    svg = plot([Series("a", [1, 10, 100], [1, 2, 3])], x_label="%", y_label="mIoU", log_x=True)
    first, middle, last = max(paths(svg, "accent"), key=len)
    assert middle[0] - first[0] == pytest.approx(last[0] - middle[0], abs=0.01)
    assert first[1] > middle[1] > last[1]


def test_lines_have_bars_names_and_colours_of_their_own() -> None:
    lines = [
        Series("scratch", [1, 5], [10, 20], [2, 1], baseline=True),
        Series("<run>", [1, 5], [15, 25]),
        Series("other", [1, 5], [16, 26]),
    ]
    svg = plot(lines, x_label="%", y_label="mIoU, %")
    assert "&lt;run&gt;" in svg
    assert {"scratch", "<run>", "other", "1", "5"} <= set(texts(svg))
    assert re.search(r"stroke-dasharray: [\d.,]+; stroke-dashoffset: 0; stroke: var\(--soft\)", svg)
    bars = [line for line in paths(svg, "soft") if len({x for x, _ in line}) == 1]
    assert len(bars) >= 2
    assert paths(svg, "accent")
    assert paths(svg, "second")


def test_figures_take_the_page_s_colours_and_refer_to_nothing_outside() -> None:
    drawn = [
        curve([2.0, 1.0], label="loss", reference=3.0, reference_name="chance"),
        profile([-1.0, 0.0, 1.0], [0.1, 0.5, 0.2], name="u", unit="px"),
        histogram(["0 – 1", "1 – 2"], [0.25, 0.75], label="depth, m"),
    ]
    for svg in drawn:
        assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("#m", "").replace("#p", ""))
        root = ElementTree.fromstring(svg)
        assert "width" not in root.attrib
        ids = {node.get("id") for node in root.iter()} - {None}
        referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        assert ids == referred
        assert "http" not in svg.replace("http://www.w3.org/1999/xlink", "")
    assert {"25.0", "75.0", "0 – 1"} <= set(texts(drawn[2]))


def test_one_point_and_many_points_are_drawn() -> None:
    only = plot([Series("a", [20], [0.0])], x_label="steps", y_label="mIoU")
    assert "20" in texts(only)
    many = plot([Series("a", range(1, 500), range(1, 500))], x_label="steps", y_label="mIoU")
    named = [text for text in texts(many) if text.isdigit()]
    assert named[0] == "1"
    assert 4 < len(named) <= MOST_NAMED + 10


def test_colours_repeat_where_there_are_many_lines() -> None:
    lines = [Series(f"{number}", [1], [number]) for number in range(len(COLORS) + 1)]
    assert {"0", "4"} <= set(texts(plot(lines, x_label="x", y_label="y")))
