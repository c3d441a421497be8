"""How often `p2pkit check` reports a fault in a recording that has none.

Judges short runs of frames from untouched recordings, of random lengths, strides and starts,
and prints the failed tests of each and, per recording, how many runs failed. The upper end of
the 95 % interval (Clopper and Pearson 1934) of that share is also printed; runs of one recording
are correlated, so it is optimistic.

Example: python benchmarks/false_alarms.py --runs 3 --source KITTI
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from check_faults import SOURCES, data_option, judge
from scipy.stats import beta

from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.registry import open_source

LENGTHS = (3, 5, 8, 16, 24)
STRIDES = (1, 2, 4)
FRAMES = 16
RECORDINGS = {**SOURCES, "NYUv2": ("nyuv2", "nyuv2_half")}


class Excerpt:
    """A source with only some frames of another."""

    def __init__(self, source: FrameSource, keys: Sequence[str]) -> None:
        self._source, self._keys = source, list(keys)
        self.name = source.name
        self.label_names: Sequence[str] | None = source.label_names
        self.ignore_label: int | None = source.ignore_label

    def keys(self) -> Sequence[str]:
        """Keys of its frames, in the source's order."""
        return self._keys

    def load(self, key: str) -> Frame:
        """As the source."""
        return self._source.load(key)

    def fingerprint(self) -> dict[str, Any]:
        """The source's names."""
        return self._source.fingerprint()


def excerpts(source: FrameSource, runs: int, random: np.random.Generator) -> list[Excerpt]:
    """The distinct ones among `count` drawn runs of frames."""
    keys = list(source.keys())
    drawn: set[tuple[str, ...]] = set()
    for _ in range(runs):
        stride = int(random.choice(STRIDES))
        length = min(int(random.choice(LENGTHS)), max(len(keys) // stride, 1))
        begin = int(random.integers(0, len(keys) - (length - 1) * stride))
        drawn.add(tuple(keys[begin : begin + length * stride : stride]))
    return [Excerpt(source, keys) for keys in sorted(drawn)]


def accused(excerpt: Excerpt) -> bool:
    """Whether a test fails; prints which and why."""
    failed = [verdict for verdict in judge(excerpt, FRAMES) if verdict.outcome == "fail"]
    for verdict in failed:
        keys = excerpt.keys()
        click.echo(f"    {keys[0]} … {keys[-1]} ({len(keys)}): {verdict.test}: {verdict.reason}")
    return bool(failed)


@click.command()
@data_option
@click.option("--source", "names", multiple=True, type=click.Choice(list(RECORDINGS)))
@click.option("--runs", default=15, show_default=True, help="Runs drawn per recording.")
@click.option("--seed", default=0, show_default=True)
def main(data: Path, names: tuple[str, ...], runs: int, seed: int) -> None:
    """Print a Markdown table and the bound over all recordings."""
    rows: list[tuple[str, int, int]] = []
    for name in names or RECORDINGS:
        dataset, folder = RECORDINGS[name]
        source = open_source(dataset, SourceOptions(root=data / folder))
        random = np.random.default_rng([seed, len(rows)])
        found = [accused(excerpt) for excerpt in excerpts(source, runs, random)]
        rows.append((name, len(found), sum(found)))
    click.echo("| recording | runs of frames | accused |\n|---|--:|--:|")
    for row in rows:
        click.echo("| {} | {} | {} |".format(*row))
    total, count = (sum(column) for column in list(zip(*rows, strict=True))[1:])
    bound = 1.0 if count == total else beta.ppf(0.975, count + 1, total - count)
    click.echo(f"\nAccused: {count} of {total}; at most {100 * bound:.1f} % with 95 % confidence.")


if __name__ == "__main__":
    main()
