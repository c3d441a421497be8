"""check: can a recording's or a store's pixel-point pairs be trusted, and if not, what is wrong?"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.alignment.shifts import Profile, profiles
from p2pkit.alignment.verdicts import Verdict, judge_alignment, judge_each_view, judge_poses
from p2pkit.datasets.frame import Frame, FrameSource, SourceOptions
from p2pkit.datasets.left_out import LeftOut, left_out_by
from p2pkit.datasets.plausible import implausible_times
from p2pkit.datasets.registry import is_kind, open_source
from p2pkit.errors import ConfigError, FrameError, counted
from p2pkit.files import write_json, write_text
from p2pkit.geometry.project import project
from p2pkit.layers.geometry import decode_geometry, encode_geometry
from p2pkit.pipelines.check.fields import field_problems
from p2pkit.pipelines.check.frames import Gathered, gather
from p2pkit.pipelines.check.mends import Declared, mends
from p2pkit.pipelines.check.page import Picture, check_page, overlay, summary_line
from p2pkit.pipelines.check.statistics import PairStatistics
from p2pkit.pipelines.check.stored import StoreSource, add_stored, judge_stored_pairs
from p2pkit.pipelines.extract.settings import usual_geometry
from p2pkit.pipelines.settings import CheckConfig
from p2pkit.store.location import MANIFEST
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store, open_store

MOST_OVERLAYS = 12
WEAK_INTENSITY = 1 / 50
"""Returns that are never above this were probably divided by their full scale twice."""
INTENSITY_FAULT = "intensities in another range"
POSED = "posed-rgbd"
POSES_AND_UNITS = ("depth_units_per_metre", "pose", "pose_axes")
"""The fields of a camera.json that advice depends on."""


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        path: of check.json; check.html and overlays/ are next to it.
        verdicts: one per test.
        summary: one sentence.
        mends: what to change where a fault is named.
    """

    path: Path
    verdicts: tuple[Verdict, ...]
    summary: str
    mends: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No test failed."""
        return all(verdict.outcome != "fail" for verdict in self.verdicts)


@dataclass
class _Visit:
    """What is kept of each frame while its images are in memory."""

    statistics: PairStatistics
    overlays_of: int
    empty: list[str] = field(default_factory=list)
    without_views: int = 0
    implausible: list[str] = field(default_factory=list)
    intensities: list[tuple[float, float]] = field(default_factory=list)
    units_per_metre: set[float] = field(default_factory=set)
    median_depths_m: list[float] = field(default_factory=list)
    overlays: dict[str, Picture] = field(default_factory=dict)

    def __call__(self, frame: Frame) -> None:
        try:
            self.statistics.add_frame(frame)
        except FrameError as error:
            self.empty.append(str(error))
            return
        if len(self.overlays) < self.overlays_of:
            self._draw(frame)

    def _draw(self, frame: Frame) -> None:
        cloud = decode_geometry(encode_geometry(frame, self.statistics.geometry))
        for number, view in enumerate(frame.views):
            depth = project(cloud.points, view.camera, view.camera_from_sensor).depth_m
            name = f"{frame.key}-view{number}"
            self.overlays[name] = overlay(view, cloud, number, depth[cloud.pair_point])


def run(config: CheckConfig, *, progress: Callable[[str], None] | None = None) -> CheckReport:
    """Check a recording or a store and write check.json, check.html and overlays.

    Args:
        config: what to check.
        progress: called with the key of each frame that is checked.

    Raises:
        ConfigError: neither a store nor a known dataset is given.
        SourceError: the recording cannot be opened.
        StoreError: the store cannot be read.
    """
    store = _store_of(config)
    source = StoreSource(store) if store is not None else _source_of(config)
    return check_source(source, config, store=store, progress=progress)


def check_source(
    source: FrameSource,
    config: CheckConfig,
    *,
    store: Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """As `run`, for any source."""
    statistics = PairStatistics(usual_geometry(source.name))
    visit = _Visit(statistics, overlays_of=min(config.frames, MOST_OVERLAYS))
    samples: list[Sample] = []

    def look(frame: Frame) -> None:
        visit.implausible += implausible_times(frame)
        if frame.intensity is not None:
            visit.intensities.append((float(frame.intensity.min()), float(frame.intensity.max())))
        if frame.depth is not None and frame.depth.values.any():
            units = frame.depth.units_per_metre
            visit.units_per_metre.add(units)
            known = frame.depth.values[frame.depth.values > 0]
            visit.median_depths_m.append(float(np.median(known)) / units)
        if not frame.views:
            visit.without_views += 1
        elif store is None:
            visit(frame)
        else:
            samples.append(store.read("geometry", *store.find(frame.key)))
            add_stored(visit.statistics, samples[-1])
        if progress is not None:
            progress(frame.key)

    def problems(frame: Frame) -> list[str]:
        # A store's frames have no images; `shards verify` checks its fields.
        return field_problems(frame, source.label_names) if store is None else []

    found = gather(source, config.frames, problems=problems, visit=look)
    verdicts = [_judge_fields(found, visit.implausible)]
    verdicts += [_judge_intensity(visit.intensities)] if visit.intensities else []
    if left_out := left_out_by(source):
        verdicts.append(_judge_completeness(left_out))
    curves: list[Profile] = []
    if visit.without_views:
        verdicts.append(_without_pairs(visit.without_views))
    else:
        verdicts.append(_judge_coverage(visit, found))
        verdicts += [judge_stored_pairs(samples)] if samples else []
        verdicts += _judge_images(found, is_store=store is not None)
        curves = profiles(found.looks) if found.looks else []
        verdicts.append(judge_poses(found.pairs))
    advice = mends(verdicts, _declared(source, visit, store))
    return _written(config, visit, found, verdicts, curves, advice)


def _store_of(config: CheckConfig) -> Store | None:
    if config.dataset is None and config.source is not None:
        if (config.source / MANIFEST).is_file():
            return open_store(config.source)
        raise ConfigError(
            f"{config.source} is not a store; name the format of the recording with --dataset, "
            "such as --dataset posed-rgbd"
        )
    return None


def _source_of(config: CheckConfig) -> FrameSource:
    if config.dataset is None:
        raise ConfigError("name a store, or a recording and its --dataset")
    options = SourceOptions(
        root=config.source,
        camera_file=config.camera,
        seed=config.seed,
        depth_units=config.depth_units,
        streams=config.streams,
    )
    return open_source(config.dataset, options)


def _declared(source: FrameSource, visit: _Visit, store: Store | None) -> Declared:
    """As in the recording; a store keeps depth in its units, or points made of it."""
    names = [source.name] if store is None else store.manifest.datasets
    camera_json: dict[str, Any] = {}
    if set(names) == {POSED}:
        camera_json = _shared_calibration(
            source.fingerprint() if store is None else store.manifest.dataset
        )
    takes_units = all(is_kind(name, "depth") for name in names)
    units: float | None = camera_json.get("depth_units_per_metre")
    if takes_units and len(visit.units_per_metre) == 1:
        (units,) = visit.units_per_metre
    median = float(np.median(visit.median_depths_m)) if visit.median_depths_m else None
    return Declared(units, median, camera_json, store is not None, takes_units)


def _shared_calibration(dataset: dict[str, Any]) -> dict[str, Any]:
    """What every sequence of a posed-rgbd recording, or of all in a merged store, says of its units
    and poses; empty where they differ.
    """
    first, *others = (
        {name: one.get(name) for name in POSES_AND_UNITS} for one in _calibrations(dataset)
    )
    return first if all(other == first for other in others) else {}


def _calibrations(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each sequence; a merged store may have been made of merged ones."""
    if "sources" in dataset:
        return [found for source in dataset["sources"] for found in _calibrations(source)]
    return dataset["calibration"]


def _judge_fields(found: Gathered, implausible: list[str]) -> Verdict:
    bad = [reason for _, reason in found.failures]
    figures = {"problems": bad[:20], "implausible": implausible[:20]}
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fault = "unreadable or wrong fields"
        if all("intensity is" in reason for reason in bad):
            fault = INTENSITY_FAULT
        return Verdict("fields", "fail", f"{bad[0]}{more}", fault, figures)
    remark = ""
    if implausible:
        more = f" (and {len(implausible) - 1} more)" if len(implausible) > 1 else ""
        remark = f"; counted as unknown: {implausible[0]}{more}"
    reason = f"valid fields in {counted(len(found.keys), 'frame')}{remark}"
    return Verdict("fields", "pass", reason, "", figures)


def _judge_intensity(extremes: list[tuple[float, float]]) -> Verdict:
    """A warning where the intensities could not help a student; `extremes` are of each frame."""
    low, high = min(pair[0] for pair in extremes), max(pair[1] for pair in extremes)
    figures = {"lowest": low, "highest": high}
    text = f"intensity is {low:.3g} to {high:.3g} in {len(extremes)} frames"
    if low == high:
        text = (
            f"intensity is {low:.3g} for every point of {len(extremes)} frames: it tells a student "
            "nothing; choose other inputs with stream.sample.inputs"
        )
        return Verdict("intensity", "cannot tell", text, "", figures)
    if high <= WEAK_INTENSITY:
        text += (
            ", never above 1/50: the files may use another range than the format's, such as 0 to "
            "1 instead of 0 to 255"
        )
        return Verdict("intensity", "cannot tell", text, "", figures)
    return Verdict("intensity", "pass", text, "", figures)


def _judge_completeness(left_out: Sequence[LeftOut]) -> Verdict:
    """Items left out are only mentioned: the pairs of the rest can still be trusted."""
    first = f"{left_out[0].name}: {left_out[0].reason}"
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    figures = {"left_out": [part._asdict() for part in left_out]}
    return Verdict("left out", "pass", f"{first}{more}", "", figures)


def _without_pairs(frames: int) -> Verdict:
    reason = (
        f"{frames} frames are points without images, for evaluation only: they have no pair, no "
        "projection and no overlap of views to test"
    )
    return Verdict("pairs", "cannot tell", reason)


def _judge_images(found: Gathered, *, is_store: bool) -> list[Verdict]:
    if not found.looks:
        reason = "no frame could be read"
        if is_store:
            reason = "a store of point frames keeps no images; check the recording itself"
        return [Verdict("edge alignment", "cannot tell", reason)]
    each = judge_each_view(found.looks)
    return [*judge_alignment(found.looks), *([] if each is None else [each])]


def _judge_coverage(visit: _Visit, found: Gathered) -> Verdict:
    statistics = visit.statistics
    if statistics.frames == 0:
        reason = visit.empty[0] if visit.empty else "no frame could be read"
        return Verdict("coverage", "fail", f"no frame has a pair; {reason}")
    seen = statistics.seen / max(statistics.points, 1)
    covered = statistics.covered / max(statistics.seen, 1)
    frames = counted(statistics.frames, "frame")
    blind = [view for view, count in statistics.seen_by_view.items() if count == 0]
    text = f"{100 * covered:.1f} % of the points have a pair in {frames}"
    if seen < 1:
        text = (
            f"{100 * seen:.1f} % of the points in {frames} are seen by a camera; "
            f"{100 * covered:.1f} % of those have a pair"
        )
    if visit.empty:
        text += f"; {counted(len(visit.empty), 'frame')} without any, such as {visit.empty[0]}"
    if blind:
        text += f"; views {blind} see no point"
    is_bad = blind or len(visit.empty) > len(found.keys) / 2
    return Verdict("coverage", "fail" if is_bad else "pass", text)


def _written(
    config: CheckConfig,
    visit: _Visit,
    found: Gathered,
    verdicts: list[Verdict],
    curves: list[Profile],
    advice: list[str],
) -> CheckReport:
    outcomes = {verdict.outcome for verdict in verdicts}
    outcome = next((one for one in ("fail", "cannot tell") if one in outcomes), "pass")
    faults = [v.fault for v in verdicts if v.outcome == "fail" and v.fault]
    report: dict[str, Any] = {
        "format": "p2pkit-check",
        "source": str(config.source or config.dataset),
        "dataset": config.dataset,
        "outcome": outcome,
        "faults": list(dict.fromkeys(faults)),
        "mends": advice,
        "tests": [vars(verdict) for verdict in verdicts],
        "frames": found.keys,
        "failures": [{"key": key, "reason": reason} for key, reason in found.failures],
        "profiles": [curve._asdict() for curve in curves],
        "statistics": visit.statistics.to_json(),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    _write_overlays(config.out, visit.overlays)
    shown = dict(list(visit.overlays.items())[:6])
    write_text(config.out / "check.html", check_page(report, curves, shown))
    write_json(config.out / "check.json", report)
    return CheckReport(
        config.out / "check.json", tuple(verdicts), summary_line(report), tuple(advice)
    )


def _write_overlays(out: Path, overlays: dict[str, Picture]) -> None:
    """In place of those of the earlier report in this folder, if there is one; other files stay."""
    folder = out / "overlays"
    folder.mkdir(exist_ok=True)
    earlier = _earlier_frames(out / "check.json")
    for path in folder.glob("*-view*.png"):
        if path.stem.rpartition("-view")[0] in earlier:
            path.unlink()
    for name, picture in overlays.items():
        Image.fromarray(np.ascontiguousarray(picture)).save(folder / f"{name}.png")


def _earlier_frames(report: Path) -> set[str]:
    """Keys of the frames that a report is of; none where it cannot be read."""
    try:
        return set(json.loads(report.read_text())["frames"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()
