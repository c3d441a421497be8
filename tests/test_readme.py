"""Every command in the README runs, and every link in it and in docs/ leads somewhere."""

import re
from pathlib import Path

import pytest
from demo_recording import in_shell, write_demo_recording

ROOT = Path(__file__).parents[1]
MADE_BY_MAKE = ("make demo", "make test")
"""What runs the tests themselves, or what tests/cli/test_demo.py runs."""
SHORTER = {
    "--steps 400": "--steps 2",
    "--steps 200": "--steps 2",
    "--preset cpu-small": "--preset cpu-small --set stream.sample.voxel_size=0.2",
    "--fractions 50,100": "--fractions 100 --seeds 1",
    "--set holdout=12": "--set holdout=3",
    "--dataset demo-scene": "--dataset demo-scene --every 4 --input-size 160 128",
    "--minutes 20": "--set steps=1 --set 'training=[\"stream.sample.voxel_size=0.2\"]'",
}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with `my-recording`: five generated frames in the form that the README shows."""
    write_demo_recording(tmp_path / "my-recording", frames=5)
    return tmp_path


@pytest.mark.slow
def test_every_command_runs_in_the_order_of_the_page(workplace: Path) -> None:
    """Each in a process of its own, as a user has it: other tests spare themselves the start."""
    lines = readme_commands()
    assert [line for line in lines if line.startswith("make")] == list(MADE_BY_MAKE)
    script = "\n".join(line for line in lines if line not in MADE_BY_MAKE)
    assert script.count("p2pkit ") >= 9
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    printed = in_shell(script, workplace)
    for message in ("ok: ", "1 held-out frames", "pretrained", "Learned: in 1 frame held out"):
        assert message in printed


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_local_link_leads_somewhere(page: str) -> None:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    broken: list[str] = []
    for target, anchor in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        file = path.parent / target
        if not file.exists():
            broken.append(target)
        elif anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            known = {"#" + re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            broken += [] if anchor in known else [target + anchor]
    assert not broken
