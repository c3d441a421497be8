import json
import math
import re
import shlex
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from chromium_page import drawn_extent, opened, stage_pixels, turn
from playwright.sync_api import Browser
from tiny_recording import NAMES, recording_config, tiny_train_config, write_recording

from p2pkit.cli.commands.train import asked_settings
from p2pkit.cli.commands.train import train as train_command_line
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import LossConfig
from p2pkit.networks import EngineChoice
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.check.page import OUTCOMES
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate import run as evaluate
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.report import networks as report_networks
from p2pkit.pipelines.report import run_page as report
from p2pkit.pipelines.report.evaluation import find_evaluation
from p2pkit.pipelines.report.page import numeric_columns, render
from p2pkit.pipelines.report.run_page import chance_loss, held_text, train_command
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train import run_folder
from p2pkit.pipelines.train.run_folder import read_provenance
from p2pkit.settings import config_to_json

VOID = {"meta", "img", "br", "input", "path", "polyline", "circle"}


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
def tiny_run(held_out_run: Path) -> Path:
    """A run of three steps that held the last sequence out; not to be written."""
    return held_out_run


def evaluated(run: Path, store: Path, out: Path) -> Path:
    """An evaluation of a run at two label fractions with two seeds; gives its folder."""
    config = evaluate.EvaluateConfig(
        runs=(run,),
        store=str(store),
        out=out,
        fractions=(50.0, 100.0),
        seeds=2,
        validation=0.3,
        test=0.3,
        frozen=FrozenConfig(points_per_frame=50, statistics_frames=2),
    )
    return evaluate.run(config).parent


@pytest.fixture(scope="module")
def full_report(room_store: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that was probed, tested for retrieval and evaluated."""
    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("full") / "run")
    probe.run(probe.ProbeStageConfig(run=run, store=str(room_store), points_per_frame=100))
    retrieval.run(retrieval.RetrievalConfig(run=run, store=str(room_store), pairs=64))
    evaluated(run, room_store, run.parent / "evaluation")
    return report.run(
        report.ReportConfig(run=run, store=str(room_store), out=run / "report.html", frames=2)
    )


@pytest.fixture(scope="module")
def full_page(full_report: Path) -> str:
    return full_report.read_text()


def section_of(page: str, title: str) -> str:
    """The HTML between a heading and the next one."""
    return page.partition(f">{title}</h2>")[2].partition("<h2")[0]


def plain(page: str) -> str:
    """The text of a page in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_the_page_is_whole_and_loads_nothing(full_page: str) -> None:
    page = Page(full_page)
    assert page.headings == [
        "run: pretrained on rooms",
        "What the networks see",
        "Points in 3D",
        "Few labels: does pretraining help?",
        "Linear probe",
        "Pixel retrieval",
        "Nearest points in other frames",
        "Likely false negatives",
        "Training",
        "What was trained on what",
        "Repeat this run",
        "Limits of these figures",
    ]
    assert len(page.pictures) > 2 * 6
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in page.loaded)
    assert "Not measured yet" not in full_page
    assert len(full_page) < 3e6


def test_the_run_page_opens_from_disk_and_its_points_turn(
    browser: Browser, full_report: Path
) -> None:
    page, problems = opened(browser, full_report)
    first = stage_pixels(page)
    middle, extent = drawn_extent(first)
    assert abs(middle - 0.5).max() < 0.06
    assert extent.max() > 0.75
    turn(page)
    turned = stage_pixels(page)
    choice = page.locator(".pane select").first
    assert choice.locator("option").all_text_contents() == [
        "image", "depth", "pair confidence", "labels", "2D teacher", "3D student, pretrained",
        "3D student, random weights",
    ]  # fmt: skip
    shown = [pane.input_value() for pane in page.locator(".pane select").all()]
    assert shown == ["2D teacher", "3D student, pretrained"]
    choice.select_option("3D student, random weights")
    assert len({first, turned, stage_pixels(page)}) == 3
    sections = page.locator("h2").all_text_contents()
    assert {"Likely false negatives", "Nearest points in other frames"} <= set(sections)
    broken = "images => images.filter(image => !image.naturalWidth).length"
    assert page.locator("img").evaluate_all(broken) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    assert problems == []


def test_the_page_answers_first_and_fits_a_phone(browser: Browser, full_report: Path) -> None:
    page, problems = opened(browser, full_report, width=390, dark=True)
    tiles = page.locator(".score").all_inner_texts()
    starts = [
        "Points that find their own pixel",
        "mIoU of a linear probe",
        "mIoU over ",
        "Loss",
    ]
    assert [tile.startswith(start) for tile, start in zip(tiles, starts, strict=True)] == [True] * 4
    top = page.locator("nav").bounding_box()
    assert top is not None
    picture = page.locator("img").first.bounding_box()
    assert picture is not None
    assert picture["y"] < top["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    links = page.locator("nav a").evaluate_all(
        "links => links.map(link => document.querySelector(link.hash)?.textContent)"
    )
    assert links == page.locator("nav a").all_text_contents()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == "rgb(20, 24, 31)"
    assert problems == []


def test_false_negatives_come_with_numbers_and_labels(full_page: str) -> None:
    section = section_of(full_page, "Likely false negatives")
    message = plain(section)
    for kind in ("same teacher cell", "same voxel", "teacher similarity ≥ 0.95", "all negatives"):
        assert kind in message
    assert "128 pairs of 2 frames" in message
    assert "pairs=random and negatives=paper" in message
    shown = re.findall(r"student (-?[\d.]+) teacher (-?[\d.]+) ([a-z ,]+) label (\w+)", message)
    assert len(shown) >= 4
    for student, teacher, signs, label in shown:
        assert -1 <= float(student) <= 1
        assert "same" in signs or float(teacher) >= 0.945
        assert label in NAMES[1:]
    edges = section.count('class="hit"') + section.count('class="miss"')
    # Negatives of an unlabelled anchor are neither.
    assert 0 < edges <= len(shown)


def test_nearest_points_are_of_other_frames_and_say_hit_or_miss(full_page: str) -> None:
    section = section_of(full_page, "Nearest points in other frames")
    assert section.count('class="row nearest"') == 4
    for row in section.split('class="row nearest"')[1:]:
        (query, *found) = re.findall(r"<figcaption>(.*?)</figcaption>", row)
        label, key = query.removeprefix("query: ").split("<br>")
        assert len(found) == 6
        assert [line.startswith("3D student") for line in found] == [True] * 3 + [False] * 3
        for line in found:
            match = re.fullmatch(r".* · (hit|miss): (\w+)<br>.*", line)
            assert match is not None
            message, name = match.groups()
            assert (message == "hit") == (name == label)
            assert key not in line
    table_text = plain(section)
    assert "3D student, random weights" in table_text
    assert "chance" in table_text


def test_the_evaluation_is_shown_with_its_intervals_and_card(full_page: str) -> None:
    section = section_of(full_page, "Few labels: does pretraining help?")
    message = plain(section)
    assert "fractions in percent of the training part's scenes" in message
    assert re.search(r"run \d+\.\d ± \d+\.\d \d+\.\d [+-]\d+\.\d ", message)
    assert "no interval over scenes exists" in message
    assert "the 95 % interval of the difference is above 0 at" in message
    assert "&#34;test_scenes_digest&#34;" in section
    assert section.count("<svg") == 1
    assert "mIoU, %, linear" in section


def test_an_evaluation_of_other_weights_is_not_taken(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(tiny_run, tmp_path / "a" / "first")
    folder = evaluated(first, room_store, tmp_path / "b" / "evaluation")
    assert find_evaluation(first, None) is None
    found = find_evaluation(first, folder)
    assert found is not None
    assert found.name == "first"
    shutil.copytree(folder, tmp_path / "a" / "seen")
    beside = find_evaluation(first, None)
    assert beside is not None
    assert beside.folder.name == "seen"
    other = shutil.copytree(tiny_run, tmp_path / "a" / "other")
    weights = next(other.glob("checkpoints/*/weights.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert find_evaluation(other, None) is None
    with pytest.raises(ConfigError, match=r"others \(scratch, inputs\+position, first\)"):
        find_evaluation(other, folder)
    with pytest.raises(ConfigError, match="holds no evaluation"):
        find_evaluation(other, tmp_path)


def test_the_figures_are_those_of_the_run(full_page: str, tiny_run: Path) -> None:
    losses = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    text = plain(full_page)
    assert "8 frames to pretrain on, 4 held out" in text
    assert "12 frames of 3 scenes" in text
    assert "3 steps," in text
    assert "On 4 held-out frames, each of 64 points" in text


def test_what_was_not_measured_comes_with_its_command(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.html"
    report.run(report.ReportConfig(run=tiny_run, store=str(room_store), out=out, frames=1))
    text = unescape(out.read_text())
    assert f"<pre>p2pkit evaluate {tiny_run} --preset probe --on {room_store}</pre>" in text
    assert f"<pre>p2pkit retrieval {tiny_run} {room_store}</pre>" in text
    assert f"<pre>p2pkit evaluate {tiny_run} --on {room_store} --out" in text


def test_commands_on_the_page_are_quoted_for_the_shell(
    room_store: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "my run"
    run.symlink_to(tiny_run)
    store = tmp_path / "my rooms.store"
    store.symlink_to(room_store)
    page = report.run(report.ReportConfig(run, str(store), tmp_path / "x.html", frames=1))
    printed = re.findall(r"<pre>p2pkit (?:evaluate|retrieval) .*</pre>", page.read_text())
    commands = [shlex.split(unescape(line)[5:-6]) for line in printed]
    assert commands == [
        ["p2pkit", "evaluate", f"{run}", "--on", f"{store}", "--out", f"{run}-evaluation"],
        ["p2pkit", "evaluate", f"{run}", "--preset", "probe", "--on", f"{store}"],
        ["p2pkit", "retrieval", f"{run}", f"{store}"],
    ]


def test_figures_of_other_weights_and_another_store_say_so(
    full_report: Path, room_store: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(full_report.parent, tmp_path / "run")
    for name in ("probe.json", "retrieval.json"):
        found = json.loads((run / name).read_text()) | {"checkpoint_step": 2}
        if name == "probe.json":
            found["protocol"]["store"] = "other rooms.store"
            found["protocol"]["test_frames_pretrained_on_without_labels"] = None
        (run / name).write_text(json.dumps(found))
    page = report.run(report.ReportConfig(run, str(room_store), tmp_path / "x.html", frames=1))
    text = plain(page.read_text())
    assert text.count("; measured at step 2 of 3") == 2
    older = "Measured at step 2 of 3. To measure the newest weights: p2pkit"
    probed = f"evaluate {run} --preset probe --on 'other rooms.store' Store: other rooms.store . "
    assert f"{older} {probed}" in text
    assert f"{older} retrieval {run} {room_store}" in text


def test_figures_of_the_newest_weights_need_no_step(full_page: str) -> None:
    assert "easured at step" not in full_page
    assert "Store: " not in plain(section_of(full_page, "Linear probe"))


def test_the_page_says_where_a_run_was_trained_wherever_it_is_shown(
    room_store: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    saved = json.loads((run / "config.json").read_text())
    trained = {**saved, "device": "cuda:99", "engine": "minkowski"}
    (run / "config.json").write_text(json.dumps(trained))
    monkeypatch.setattr(run_folder, "choose_engine", lambda *_: EngineChoice("torch", "missing"))
    config = report.ReportConfig(run, str(room_store), tmp_path / "x.html", frames=1)
    with pytest.warns(RuntimeWarning, match="its weights are used with 'torch'"):
        text = plain(report.run(config).read_text())
    assert "pairs a second on cuda:99" in text
    assert "--set device=cuda:99" in text
    assert "--set engine=minkowski" in text


@pytest.mark.parametrize(
    ("settings", "held", "text"),
    [
        ({}, 0, ""),
        ({"holdout": 4}, 4, " (the last ones)"),
        ({"holdout_scenes": ("seq-1", "seq-2")}, 4, " (scenes seq-1, seq-2)"),
        (
            {"holdout": 2, "holdout_scenes": ("seq-1",)},
            6,
            " (scenes seq-1 and the last 2 of the others)",
        ),
    ],
)
def test_the_page_names_what_was_held_out(settings: dict[str, Any], held: int, text: str) -> None:
    assert held_text(tiny_train_config(Path("x"), **settings), held) == text


def test_a_run_without_labels_or_negatives_is_reported(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "recording", 4, labels=False)
    store = extract.run(recording_config(recording, tmp_path / "a.store"))
    config = tiny_train_config(store, steps=1, pixel_head="fixed", loss=LossConfig(name="cosine"))
    run = train.run(config, tmp_path / "run")
    out = report.run(report.ReportConfig(run=run, store=str(store), out=tmp_path / "x.html"))
    text = plain(out.read_text())
    assert "The loss cosine has no negatives" in text
    assert "equally likely" not in text
    assert f"spread evenly over {read_provenance(run).teacher_channels} channels" in text
    assert "drawn from each other frame of the scene" in text
    assert "so hits are easy" in text
    assert "· hit:" not in text
    assert f"p2pkit evaluate {run} --on LABELLED-STORE" in text
    assert f"p2pkit evaluate {run} --preset probe --on LABELLED-STORE" in text
    assert "this needs frames that the run held out" in text
    assert "4 frames to pretrain on, 0 held out 2D teacher" in text


@pytest.mark.parametrize(
    ("settings", "candidates"),
    [
        ({}, "64 pixels"),
        ({"accumulate": 4}, "16 pixels"),
        ({"accumulate": 4, "loss": LossConfig(name="superpixel")}, "2 superpixels"),
        ({"loss": LossConfig(negatives="mask-similar")}, ""),
        ({"pixel_head": "fixed", "loss": LossConfig(name="l2")}, ""),
    ],
)
def test_the_loss_of_chance_is_that_of_a_micro_batch(
    settings: dict[str, Any], candidates: str
) -> None:
    rows = [{"pairs": pairs, "superpixels": 8} for pairs in (60, 68)]
    height, name = chance_loss(rows, tiny_train_config(Path("x"), **settings))
    assert name == (f"{candidates} equally likely" if candidates else "")
    assert height == (math.log(int(candidates.split()[0])) if candidates else None)


def test_the_printed_command_gives_the_same_settings(room_store: Path) -> None:
    config = tiny_train_config(room_store, steps=7, holdout=4)
    words = shlex.split(train_command(config).replace("\\\n", " "))
    assert words[:2] == ["p2pkit", "train"]
    with train_command_line.make_context("train", words[2:]) as context:
        asked = asked_settings(context.params).config(context.params["stores"])
    assert config_to_json(asked) == config_to_json(config)


def test_a_run_without_steps_is_refused(room_store: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(TrainingError, match="holds no step"):
        report.run(report.ReportConfig(run=run, store=str(room_store), out=tmp_path / "x.html"))


def test_text_is_escaped_and_columns_of_numbers_are_found() -> None:
    report = {
        "outcome": "fail",
        "faults": ["<b>swapped</b>"],
        "mends": [],
        "tests": [{"test": "fields", "outcome": "fail", "fault": "a & b", "reason": "<i>"}],
    }
    page = render(
        "check.html",
        name="<rooms>",
        report=report,
        outcomes=OUTCOMES,
        summary="<i>",
        profiles=[],
        overlays=[],
        facts={"Pairs": "1 < 2"},
        histograms=[],
    )
    assert "<rooms>" not in page
    assert "<td>a &amp; b</td>" in page
    assert "<i>" not in page
    assert numeric_columns([["all", "1", "x", "+2"], ["b", "", "2", "–"]]) == {1, 3}


def test_features_of_a_frame_are_computed_once_unless_memory_is_short(
    room_store: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, likely false negatives and nearest points show the same frames."""
    computed: list[tuple[int, str]] = []
    plain = report_networks.point_features

    def counted(model: Any, cloud: Any, *how: Any) -> Any:
        computed.append((id(model), cloud.key))
        return plain(model, cloud, *how)

    monkeypatch.setattr(report_networks, "point_features", counted)
    config = report.ReportConfig(tiny_run, str(room_store), tmp_path / "run.html", frames=2)
    page = report.run(config).read_text()
    assert len(computed) == len(set(computed)) == 2 * 4
    computed.clear()
    monkeypatch.setattr(report_networks, "KEPT_BYTES", 0)
    assert report.run(config).read_text() == page
    assert len(computed) == 2 * 2 + 2 + 2 * 4
