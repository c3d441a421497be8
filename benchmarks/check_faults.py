"""Inject known faults into real recordings and count which `p2pkit check` finds and names.

Prints one table in Markdown, faults × sources. `named`: a test fails and names this fault. `found`:
a test fails and names another fault or none. `missed`: no test fails. `n/a`: see the reasons below
it.

Example: python benchmarks/check_faults.py --source KITTI --frames 6
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faulty_recordings import FAULTS, FaultySource, not_applicable

from p2pkit.alignment.verdicts import Verdict, judge_alignment, judge_each_view, judge_poses
from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.pipelines.check.frames import gather

SOURCES = {
    "RedKitchen": ("posed-rgbd", "7scenes_redkitchen"),
    "fr3_cabinet": ("posed-rgbd", "tum_fr3_cabinet"),
    "office": ("posed-rgbd", "slambook2_office"),
    "KITTI": ("kitti-object", "kitti_object"),
    "nuScenes": ("nuscenes", "nuscenes_sample"),
    "PandaSet": ("pandaset", "pandaset"),
}
DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"
UNTOUCHED = "untouched"
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=os.environ.get("P2PKIT_DATA", str(DEFAULT_DATA)),
    help="Folder of the recordings; $P2PKIT_DATA by default.",
)


def untouched(source: FrameSource, frame: Frame) -> Frame:
    """No fault."""
    return frame


def judge(source: FrameSource, frames: int) -> list[Verdict]:
    """The tests that can see these faults."""
    found = gather(source, frames, problems=lambda frame: [])
    each = judge_each_view(found.looks)
    alone = [] if each is None else [each]
    return [*judge_alignment(found.looks), *alone, judge_poses(found.pairs)]


def cell(verdicts: list[Verdict], fault: str) -> str:
    """The outcome for a fault: named, found or missed; passes or FAILS for the untouched source."""
    failed = [verdict for verdict in verdicts if verdict.outcome == "fail"]
    if fault == UNTOUCHED:
        return "FAILS" if failed else "passes"
    if any(verdict.fault in FAULTS[fault][1] for verdict in failed):
        return "named"
    return "found" if failed else "missed"


def column(source: FrameSource, frames: int, say: Callable[[str], None]) -> dict[str, str]:
    """Outcomes for one source with each fault."""
    keys = source.keys()
    example = source.load(keys[0])
    cells: dict[str, str] = {}
    for fault in (UNTOUCHED, *FAULTS):
        reason = None if fault == UNTOUCHED else not_applicable(fault, example, len(keys))
        if reason is not None:
            cells[fault] = f"n/a: {reason}"
            continue
        began = time.perf_counter()
        change = untouched if fault == UNTOUCHED else FAULTS[fault][0]
        verdicts = judge(FaultySource(source, change), frames)
        cells[fault] = cell(verdicts, fault)
        say(f"{fault}: {cells[fault]} ({time.perf_counter() - began:.0f} s)")
        for verdict in verdicts:
            if verdict.outcome == "fail":
                say(f"    {verdict.test}: {verdict.fault or 'no name'}; {verdict.reason}")
    return cells


def table(columns: dict[str, dict[str, str]]) -> str:
    """Markdown, with the reasons of each n/a below."""
    lines = [f"| fault | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    reasons: list[str] = []
    for fault in (UNTOUCHED, *FAULTS):
        row: list[str] = []
        for cells in columns.values():
            text = cells[fault]
            if text.startswith("n/a"):
                reason = text.removeprefix("n/a: ")
                if reason not in reasons:
                    reasons.append(reason)
                text = f"n/a ({reasons.index(reason) + 1})"
            row.append(text)
        lines.append(f"| {fault} | {' | '.join(row)} |")
    notes = [f"({number}) {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", "; ".join(notes)])


@click.command()
@data_option
@click.option("--source", "names", multiple=True, type=click.Choice(list(SOURCES)))
@click.option("--frames", default=16, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Also write the cells.")
def main(data: Path, names: tuple[str, ...], frames: int, json_path: Path | None) -> None:
    """Print the table faults × sources."""
    columns: dict[str, dict[str, str]] = {}
    for name in names or SOURCES:
        dataset, folder = SOURCES[name]
        click.echo(f"# {name}", err=True)
        source = open_source(dataset, SourceOptions(root=data / folder))
        columns[name] = column(source, frames, lambda text: click.echo(text, err=True))
        if json_path is not None:
            json_path.write_text(json.dumps(columns, indent=1))
    click.echo(table(columns))


if __name__ == "__main__":
    main()
