"""Every command of the README is run, and every code block of docs/ that does not say why not."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_recording import in_shell, write_demo_recording
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from warm_commands import warm_commands

from p2pkit.cli.main import COMMANDS
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.losses import LOSSES, ContrastBatch, LossConfig
from p2pkit.store.reading import open_store
from p2pkit.stream import SampleConfig, StreamConfig

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"((?:^[^\n]*\n)?)^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
REASON = re.compile(r"<!-- not run: \S.{8,} -->")
PLAIN = frozenset({"text", "json"})
MADE_BY_MAKE = ("make demo", "make test")
"""What runs the tests themselves, or what tests/cli/test_demo.py runs."""
SHORTER_IN_README = {
    "--steps 400": "--steps 2",
    "--steps 200": "--steps 2",
    "--preset cpu-small": "--preset cpu-small --set stream.sample.voxel_size=0.2",
    "--fractions 50,100": "--fractions 100 --seeds 1",
    "--set holdout=12": "--set holdout=3",
    "--dataset demo-scene": "--dataset demo-scene --every 4 --input-size 160 128",
    "--minutes 20": "--set steps=1 --set 'training=[\"stream.sample.voxel_size=0.2\"]'",
}
SHORTER = {
    "--preset cpu-small": "--preset cpu-small --set stream.sample.voxel_size=0.2 "
    "--set stream.batch_size=2",
    "--steps 2000": "--steps 1 --set stream.batch_size=1 --set student=Res16UNet14A",
    "--steps 200": "--steps 2",
    "probe.every=100": "probe.every=1 --set probe.validation=0.3 --set probe.test=0.3",
    "--measured 10": "--measured 1",
    "--fractions 50,100 --seeds 3": "--fractions 100 --seeds 1",
    "frame-000012": "frame-000002",
    "--limit 36 --input-size 640 480": "--every 4 --input-size 160 128",
    "--set holdout=12 \\\n  --set stream.sample.voxel_size=0.1": "--set holdout=3",
    "views.store --limit 8": "views.store --limit 4",
    "--limit 8": "--limit 4 --input-size 160 128",
    "--limit 28 --out other.store": "--every 4 --out other.store",
    "--limit 28": "--every 4 --input-size 160 128",
}
"""Applied in this order; `--every 4` leaves three frames of each room."""
COARSE = StreamConfig(batch_size=2, sample=SampleConfig(voxel_size=0.2, pairs_per_frame=64))
SHORTER_IN_PYTHON = {"steps=2)": "steps=1, stream=coarse)"}
PREPARE = """
p2pkit extract my-recording --out my.store
p2pkit extract --dataset demo-scene --every 4 --input-size 160 128 --out rooms.store
p2pkit train rooms.store --preset cpu-small --steps 2 --out run --set stream.sample.voxel_size=0.2
p2pkit extract --dataset demo-scene --limit 2 --input-size 160 128 --out kitchen.store
p2pkit extract --dataset demo-scene --limit 2 --input-size 160 128 --seed 1 --out office.store
"""
MADE_THERE = {
    "codecs.md": "rooms.store",
    "stores.md": "rooms.store",
    "teachers.md": "rooms.store",
    "training.md": "run",
}
"""What a page makes itself and must not find."""


@dataclass(frozen=True)
class Block:
    """One fenced block; `reason` where it is not run."""

    kind: str
    text: str
    reason: bool


def blocks(page: str) -> list[Block]:
    return [
        Block(kind, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE), bool(REASON.search(above)))
        for above, indent, kind, text in BLOCK.findall((DOCS / page).read_text())
    ]


def readme_commands() -> list[str]:
    found = [block for block in blocks(str(README)) if block.kind == "sh"]
    return [line for block in found for line in block.text.splitlines() if line]


def script_of(page: str) -> str:
    return "".join(block.text for block in blocks(page) if block.kind == "sh" and not block.reason)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `p2pkit` that starts at once; other tests start the installed one."""
    with warm_commands(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.fixture(scope="module")
def prepared(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: a recording, its store, rooms, a run; not to be written."""
    folder = tmp_path_factory.mktemp("docs")
    write_demo_recording(folder / "my-recording", frames=5)
    in_shell(PREPARE, folder, programs)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_each_block_says_what_it_is(page: str) -> None:
    kinds = {block.kind for block in blocks(page)}
    assert kinds <= {"sh", "python", *PLAIN}, "name the kind of each block: sh, python, json, text"


def test_the_pages_run_every_command() -> None:
    """`p2pkit demo` is what `make demo` in the README runs: tests/cli/test_demo.py."""
    lines = "\n".join([*readme_commands(), *(script_of(page) for page in PAGES)])
    assert set(re.findall(r"^p2pkit ([a-z]+)", lines, re.MULTILINE)) == set(COMMANDS) - {"demo"}


@pytest.mark.slow
def test_the_readme_runs_in_its_order(programs: Path, tmp_path: Path) -> None:
    """In a folder with `my-recording`: five generated frames in the form that the page shows."""
    write_demo_recording(tmp_path / "my-recording", frames=5)
    lines = readme_commands()
    assert [line for line in lines if line.startswith("make")] == list(MADE_BY_MAKE)
    script = "\n".join(line for line in lines if line not in MADE_BY_MAKE)
    assert script.count("p2pkit ") >= 9
    for long, short in SHORTER_IN_README.items():
        assert long in script
        script = script.replace(long, short)
    printed = in_shell(script, tmp_path, programs)
    for message in ("ok: ", "1 held-out frames", "pretrained", "Learned: in 1 frame held out"):
        assert message in printed


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if script_of(page)])
def test_commands_run_in_the_order_of_the_page(
    page: str, prepared: Path, programs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, ignore=lambda *_: {MADE_THERE.get(page, "")})
    script = script_of(page)
    for long, short in SHORTER.items():
        script = script.replace(long, short)
    layer = "$(cd rooms.store && echo features/*)"
    in_shell(script.replace("features/resnet50-0123abcd", layer), folder, programs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]
)
def test_python_runs(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block with the names at hand that its page speaks of."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    losses = dict(LOSSES)
    monkeypatch.setattr("p2pkit.losses.LOSSES", losses)
    (layer,) = open_store("rooms.store").feature_layers
    unit = functional.normalize(torch.randn(8, 4))
    names: dict[str, Any] = {
        **{"np": np, "Sequence": Sequence, "Any": Any, "FeatureGrid": FeatureGrid},
        **{"ContrastBatch": ContrastBatch, "LossConfig": LossConfig},
        **{"Float": Float, "Tensor": Tensor},
        "coarse": COARSE,
        "batch": ContrastBatch(unit, unit, torch.arange(8), torch.arange(8)),
        "__name__": "example",
    }
    for block in blocks(page):
        if block.kind == "python" and not block.reason:
            text = re.sub(r"features/[\w-]+-[0-9a-f]{8}", layer, block.text)
            for long, short in SHORTER_IN_PYTHON.items():
                text = text.replace(long, short)
            exec(compile(text, page, "exec"), names)  # our own page
