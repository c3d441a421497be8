"""Streams are paired by what their names tell, and refused where the names tell nothing."""

from pathlib import Path

import pytest

from p2pkit.datasets.pairing import named_time, pair_images
from p2pkit.errors import SourceError


def stream(folder: str, *names: str) -> list[Path]:
    return [Path(folder) / name for name in names]


def names(first: list[Path], second: list[Path], max_gap_s: float = 0.02) -> list[tuple[str, str]]:
    return [(a.name, b.name) for a, b, _ in pair_images(first, second, max_gap_s=max_gap_s).pairs]


def test_numbers_pair_and_what_is_alone_is_reported() -> None:
    color = stream("color", *(f"{n:06d}.jpg" for n in (0, 1, 3, 4, 5, 6, 7)))
    depth = stream("depth", *(f"{n:06d}.png" for n in (0, 1, 2, 3, 4, 5, 7)))
    found = pair_images(color, depth, max_gap_s=0.02)
    assert [int(pair.first.stem) for pair in found.pairs] == [0, 1, 3, 4, 5, 7]
    assert all(pair.first.stem == pair.second.stem for pair in found.pairs)
    assert [path.name for path in found.alone] == ["000006.jpg", "000002.png"]


def test_numbers_are_not_sorted_as_text() -> None:
    color = stream("color", "10.jpg", "2.jpg", "1.jpg")
    assert names(color, stream("depth", "0001.png", "0002.png", "0010.png")) == [
        ("1.jpg", "0001.png"),
        ("2.jpg", "0002.png"),
        ("10.jpg", "0010.png"),
    ]


def test_decimal_times_are_not_sorted_as_text() -> None:
    color = stream("color", "5.1.png", "5.033.png", "5.066.png")
    depth = stream("depth", "5.035.png", "5.068.png", "5.102.png")
    assert names(color, depth) == [
        ("5.033.png", "5.035.png"),
        ("5.066.png", "5.068.png"),
        ("5.1.png", "5.102.png"),
    ]


def test_milliseconds_with_decimals_are_no_seconds() -> None:
    """Else none of these would be within 0.02 of each other."""
    color = stream("color", "_Color_1554808113435.88.png", "_Color_1554808113469.21.png")
    depth = stream("depth", "_Depth_1554808113432.88.png", "_Depth_1554808113466.21.png")
    found = pair_images(color, depth, max_gap_s=0.02)
    assert [pair.offset_s for pair in found.pairs] == pytest.approx([0.003, 0.003], abs=1e-6)
    assert not found.alone


def test_times_pair_each_image_once_with_its_nearest() -> None:
    color = stream("color", "1-000000010000.png", "2-000000110000.png")
    depth = stream("depth", "1-000000000000.png", "2-000000018000.png", "3-000000100000.png")
    found = pair_images(color, depth, max_gap_s=0.02)
    assert [(a.name[0], b.name[0]) for a, b, _ in found.pairs] == [("1", "2"), ("2", "3")]
    assert found.pairs[1].offset_s == pytest.approx(0.01)
    assert [path.name[0] for path in found.alone] == ["1"]


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("1605000000123.png", 1605000000.123),
        ("color_1605000000123456.png", 1605000000.123456),
        ("1605000000123456789.png", 1605000000.1234567),
        ("_Depth_1554808113432.87963867.png", 1554808113.43288),
        ("1605000000123456.5.png", 1605000000.1234565),
        ("1305031102.175304.png", 1305031102.175304),
        ("2024-01-05_12-00-05.006.png", 1704456005.006),
        ("depth_2024-01-05T12:01:05.006.png", 1704456065.006),
        ("20240105_120105006.png", 1704456065.006),
        ("12-01-05.006.png", 12 * 3600 + 65.006),
        ("12-1700000000123.png", 1700000000.123),
        ("20240105-120105006.png", 1704456065.006),
        ("rec_2024-01-05_12-00-05_10.png", None),
        ("2024-13-05_12-00-05.006.png", None),
        ("2024-01-05_12-00-05.png", None),
        ("000012.png", None),
        ("wall.png", None),
    ],
)
def test_times_in_names(name: str, seconds: float | None) -> None:
    assert named_time(Path(name)) == (None if seconds is None else pytest.approx(seconds))


def test_names_without_numbers_must_be_equal() -> None:
    assert names(stream("a", "door.jpg", "wall.jpg"), stream("b", "wall.png", "door.png")) == [
        ("door.jpg", "door.png"),
        ("wall.jpg", "wall.png"),
    ]


@pytest.mark.parametrize(
    ("color", "depth", "message"),
    [
        (["1.jpg", "01.png"], ["1.png"], "both with number 1"),
        (["a.jpg", "b.jpg"], ["c.png", "d.png"], "0 of 2 images"),
        (["100.jpg", "133.jpg", "166.jpg"], ["101.png", "134.png", "166.png"], "1 of 3 images"),
        (["5.1.png"], ["3605.1.png"], "the same clock"),
        ([], ["1.png"], "0 of 0 images"),
    ],
)
def test_what_cannot_be_decided_is_refused(
    color: list[str], depth: list[str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        pair_images(stream("color", *color), stream("depth", *depth), max_gap_s=0.02)


def test_times_of_day_are_not_paired_across_minutes() -> None:
    color = [f"2024-01-05_12-0{minute}-05.006.png" for minute in range(3)]
    depth = [f"2024-01-05_12-0{minute}-05.009.png" for minute in range(2)]
    found = pair_images(stream("color", *color), stream("depth", *depth), max_gap_s=0.02)
    assert [(a.name[14:16], b.name[14:16]) for a, b, _ in found.pairs] == [
        ("00", "00"),
        ("01", "01"),
    ]
    assert found.pairs[1].offset_s == pytest.approx(-0.003, abs=1e-6)
    assert [path.name for path in found.alone] == [color[2]]


def test_a_counter_after_a_date_is_no_fraction_of_a_second() -> None:
    stem = "rec_2024-01-05_12-00-05"
    color = [f"{stem}_{number}.jpg" for number in (1, 2, 3)]
    depth = [f"{stem}_{number}.png" for number in (10, 2, 3)]
    assert names(stream("color", *color), stream("depth", *depth)) == [
        (f"{stem}_2.jpg", f"{stem}_2.png"),
        (f"{stem}_3.jpg", f"{stem}_3.png"),
    ]
