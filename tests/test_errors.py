"""Words that messages share."""

from p2pkit.errors import counted


def test_one_thing_is_not_plural() -> None:
    assert [counted(count, "frame") for count in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
