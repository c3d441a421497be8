"""The demo convinces: pretrained features beat random ones in the room that was left out."""

from pathlib import Path

import pytest

from p2pkit.pipelines import demo
from p2pkit.pipelines.settings import DemoConfig

pytestmark = pytest.mark.slow

MARGINS = {"miou": 0.13, "accuracy": 0.04}
"""About half of the smallest that was measured over five seeds; docs/tutorial.md has them."""


def gains(folder: Path, seed: int) -> dict[str, float]:
    """Scores of the linear probe above those of random weights: mean of two random networks."""
    probe = demo.run(DemoConfig(out=folder / "demo", seed=seed)).probe
    assert probe is not None
    pretrained, random = (probe["scores"][kind] for kind in ("pretrained", "random"))
    return {name: pretrained[name] - random[name] for name in MARGINS}


def test_pretrained_features_beat_random_ones(tmp_path: Path) -> None:
    found = gains(tmp_path, seed=0)
    assert all(found[name] > margin for name, margin in MARGINS.items()), found


if __name__ == "__main__":
    import sys
    import tempfile

    for number in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as temporary:
            print(number, gains(Path(temporary), number), flush=True)
