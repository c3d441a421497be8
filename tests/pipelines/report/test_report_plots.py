import re

from p2pkit.pipelines.report.plots import MOST_NAMED, Series, curve, plot


def places(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line."""
    lines = re.findall(r'points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", s)] for s in lines]


def test_a_curve_spans_its_values() -> None:
    svg = curve([3.0, 2.0, 1.0], reference=4.0, reference_name="ln N", label="loss")
    lines = places(svg)
    assert [len(line) for line in lines] == [3, 3]
    heights = [y for _, y in lines[0]]
    assert heights == sorted(heights)
    assert "ln N" in svg


def test_equal_factors_are_equally_far_apart() -> None:
    svg = plot([Series("a", [1, 10, 100], [1, 2, 3])], x_label="%", y_label="mIoU", log_x=True)
    ((first, middle, last),) = places(svg)
    assert middle[0] - first[0] == last[0] - middle[0]
    assert first[1] > middle[1] > last[1]


def test_lines_have_bars_names_and_colours_of_their_own() -> None:
    lines = [
        Series("scratch", [1, 5], [10, 20], [2, 0], baseline=True),
        Series("<run>", [1, 5], [15, 25]),
    ]
    svg = plot(lines, x_label="%", y_label="mIoU, %")
    assert svg.count("stroke-dasharray") == 1
    assert svg.count('fill="none"/>') == 1
    assert svg.count("<circle") == 4
    assert "&lt;run&gt;" in svg
    assert svg.count("background:var(--soft)") == svg.count("background:var(--accent)") == 1


def test_one_point_and_many_points_are_drawn() -> None:
    ((only,),) = places(plot([Series("a", [20], [0.0])], x_label="steps", y_label="mIoU"))
    assert 0 < only[0] < 760
    many = plot([Series("a", range(1, 500), range(1, 500))], x_label="steps", y_label="mIoU")
    named = re.findall(r'y="256.0" text-anchor="middle">([^<]*)<', many)
    assert named[0] == "1"
    assert 4 < len(named) <= MOST_NAMED
