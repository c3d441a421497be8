import json
import re
import shlex
import shutil
from dataclasses import fields
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiny_recording import tiny_train_config

from p2pkit.cli.train import AskedSettings
from p2pkit.cli.train import train as train_command_line
from p2pkit.config import config_to_json
from p2pkit.errors import TrainingError
from p2pkit.pipelines import probe, report, retrieval, train
from p2pkit.pipelines.report_page import curve, table
from p2pkit.pipelines.report_sections import train_command

VOID = {"meta", "img", "input", "path", "polyline"}


class Page(HTMLParser):
    """Headings, picture sources and links of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.pictures.append(values["src"] or "")
        self.loaded += [values[name] or "" for name in ("src", "href") if values.get(name)]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] in (["h1"], ["h2"]):
            self.headings.append(data)


@pytest.fixture(scope="module")
def tiny_run(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps that held the last sequence out; not to be written."""
    config = tiny_train_config(room_store, steps=3, holdout=4)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def full_page(room_store: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run that was probed and tested for retrieval."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("full") / "run")
    probe.run(probe.ProbeStageConfig(run=run, store=str(room_store), points_per_frame=100))
    retrieval.run(retrieval.RetrievalConfig(run=run, store=str(room_store), pairs=64))
    out = report.run(report.ReportConfig(run=run, store=str(room_store), out=run / "report.html"))
    return out.read_text()


def test_the_page_is_whole_and_loads_nothing(full_page: str) -> None:
    page = Page(full_page)
    assert page.headings == [
        "posed-rgbd: from 2D features to a pretrained 3D network",
        "What the networks see: 3 held-out frames",
        "Turn the points",
        "Training",
        "Linear probe",
        "Pixel retrieval",
        "Do it again",
        "Read with care",
    ]
    assert len(page.pictures) == 3 * 6
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)


def test_the_figures_are_those_of_the_run(full_page: str, tiny_run: Path) -> None:
    losses = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    text = unescape(re.sub(r"<[^>]*>", " ", full_page))
    assert "8 frames to pretrain on, 4 held out" in text
    assert "12 frames of 3 scenes" in text
    assert "3 steps," in text
    assert "On 4 held-out frames, each of 64 points" in text


def test_without_probe_and_retrieval_their_sections_are_left_out(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    report.run(report.ReportConfig(run=tiny_run, store=str(room_store), out=out, frames=1))
    headings = Page(out.read_text()).headings
    assert "Training" in headings
    assert not {"Linear probe", "Pixel retrieval"} & set(headings)


def test_the_printed_command_gives_the_same_settings(room_store: Path) -> None:
    config = tiny_train_config(room_store, steps=7, holdout=4)
    words = shlex.split(train_command(config).replace("\\\n", " "))
    assert words[:2] == ["p2pkit", "train"]
    context = train_command_line.make_context("train", words[2:])
    given = {entry.name: context.params[entry.name] for entry in fields(AskedSettings)}
    asked = AskedSettings(**given).config(context.params["stores"])
    assert config_to_json(asked) == config_to_json(config)


def test_a_run_without_steps_is_refused(room_store: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(TrainingError, match="holds no step"):
        report.run(report.ReportConfig(run=run, store=str(room_store), out=tmp_path / "x.html"))


def test_text_is_escaped_and_totals_stand_out() -> None:
    shown = table(["<a>", "b & c"], [["x", "1"], ["all", "2"]], totals=1)
    assert "&lt;a&gt;" in shown
    assert "b &amp; c" in shown
    assert shown.count('class="total"') == 1
    assert '<tr class="total"><td>all</td>' in shown


def test_a_curve_spans_its_values() -> None:
    svg = curve([3.0, 2.0, 1.0], reference=4.0, reference_name="ln N", label="loss")
    points = [line.split() for line in re.findall(r'points="([^"]*)"', svg)]
    assert [len(line) for line in points] == [3, 3]
    heights = [float(point.split(",")[1]) for point in points[0]]
    assert heights == sorted(heights)
    assert "ln N" in svg
