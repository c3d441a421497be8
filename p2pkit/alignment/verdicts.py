"""From scores to verdicts: pass, fail with the likely fault, or cannot tell."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from p2pkit.alignment.edges import Look, Score, place, score
from p2pkit.alignment.poses import (
    FramePair,
    PoseHypothesis,
    agreement,
    declared_poses,
    pose_hypotheses,
)
from p2pkit.alignment.shifts import Misalignment, find_misalignment
from p2pkit.alignment.significance import Evidence, above, above_zero
from p2pkit.alignment.timing import TimeOffset, find_time_offset, timed_looks
from p2pkit.alignment.wrong_calibrations import Hypothesis, hypotheses

CHANCE = 0.01
"""Chance of a false alarm in a whole family of alternatives (Bonferroni)."""
RELATIVE_GAIN = 0.25
"""An alternative must also be better by this share of its score."""
SHIFT_TOLERANCE, ROLL_TOLERANCE_DEG = 0.0075, 1.25
"""The best displacement may be this far from zero, as a share of the image's width, and the best
rotation about the optical axis, which moves few pixels far (degrees)."""
SETTLED_IMAGES = 16
"""Images over which each one's own displacement (shutter, exposure at another time than the depth)
has averaged out; with fewer, only larger ones fail."""
PASS_CHANCE = 1e-4
"""Chance of a score as high as the declared one's without any alignment; below it is a pass."""
SHIFT_CHANCE = 1e-3
SHIFT_RELATIVE_GAIN = 0.08
MUCH_BETTER = 1.35
"""A small change is reported instead of a named alternative if it fits this many times better."""
CHANCE_SCORE = 0.02
AGREEMENT_GAIN = 0.05
TIME_FAULT = "points and images differ in time"
UNREGISTERED = "colour is not registered to depth"
WRONG_FOCAL_LENGTH = "wrong focal length"

Outcome = Literal["pass", "fail", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one test.

    Args:
        test: its name.
        outcome: `cannot tell` is a warning, not a failure.
        reason: one sentence, with the figures.
        fault: the likely fault of a failure; empty if none is named.
        figures: for the JSON report.
    """

    test: str
    outcome: Outcome
    reason: str
    fault: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def judge_alignment(looks: Sequence[Look]) -> tuple[Verdict, Verdict, Verdict]:
    """The tests `edge alignment`, `shift test` and `time test`."""
    looks = list(looks)
    declared = score(looks, place)
    tried = [(one, score(looks, one.place)) for one in hypotheses(looks)]
    better = [(one, found) for one, found in tried if _clearly_above(found, declared, len(tried))]
    better.sort(key=lambda entry: -round(entry[1].mean, 3))
    moved, late = find_misalignment(looks), find_time_offset(looks)
    shift = _judge_shift(looks, declared, moved)
    time = _judge_time(len(timed_looks(looks)), declared, late)
    if shift.outcome == time.outcome == "fail" and late is not None:
        # Both see the same displacement; the one that explains it better keeps its name.
        if late.found.mean > moved.found.mean:
            shift = replace(shift, fault=TIME_FAULT)
        else:
            reason = f"{time.reason}; the shift test's change fits better"
            time = replace(time, outcome="cannot tell", reason=reason, fault="")
    if better and shift.outcome == "fail" and moved.found.mean > MUCH_BETTER * better[0][1].mean:
        better = []
    found = _judge_alternatives(declared, better, len(tried))
    if found.outcome == "fail" and not found.fault and shift.outcome == "fail":
        reason = f"edge score {declared.mean:.3f} (chance is 0): the shift test says why"
        found = replace(found, reason=reason, fault=shift.fault)
    return found, shift, time


def judge_each_view(looks: Sequence[Look]) -> Verdict | None:
    """The test `each camera`: `edge alignment` and `shift test` of each camera alone.

    All cameras together would hide a fault in one. None where there is only one.
    """
    views = sorted({look.view for look in looks})
    if len(views) < 2:
        return None
    found = {view: judge_alignment([one for one in looks if one.view == view]) for view in views}
    figures: dict[str, Any] = {
        "views": [{"view": view, "tests": [vars(test) for test in found[view]]} for view in views]
    }
    failed = [(v, test) for v in views for test in found[v][:2] if test.outcome == "fail"]
    if failed:
        bad = ", ".join(str(view) for view in dict.fromkeys(view for view, _ in failed))
        view, test = failed[0]
        reason = f"views {bad} fail on their own; view {view}, {test.test}: {test.reason}"
        return Verdict("each camera", "fail", reason, test.fault, figures)
    unsure = [view for view in views if found[view][0].outcome != "pass"]
    if unsure:
        reason = f"views {', '.join(map(str, unsure))} show too little to be judged on their own"
        return Verdict("each camera", "cannot tell", reason, "", figures)
    return Verdict("each camera", "pass", f"each of {len(views)} views passes", "", figures)


def _clearly_above(found: Score, declared: Score, family: int) -> bool:
    """Above zero and above the declared one, by more than chance and by more than a little."""
    gain = found.mean - declared.mean
    return (
        gain > RELATIVE_GAIN * found.mean
        and above_zero(found).p * family < CHANCE
        and above(found, declared).p * family < CHANCE
    )


def _judge_alternatives(
    declared: Score, better: list[tuple[Hypothesis, Score]], family: int
) -> Verdict:
    evidence = above_zero(declared)
    figures: dict[str, Any] = {
        "score": declared.mean,
        "t": evidence.t,
        "p": evidence.p,
        "edge_points": int(declared.number.sum()),
        "alternatives": family,
        "better": [
            {"fault": one.fault, "detail": one.detail, "score": found.mean}
            for one, found in better[:5]
        ],
    }
    measured = f"edge score {declared.mean:.3f} (chance is 0; t = {evidence.t:.1f})"
    if better:
        best, found = better[0]
        reason = f"{measured}, but {found.mean:.3f} if {best.fault}: {best.detail}"
        return Verdict("edge alignment", "fail", reason, best.fault, figures)
    if evidence.p < PASS_CHANCE:
        return Verdict(
            "edge alignment",
            "pass",
            f"{measured}; none of {family} alternatives fits better",
            "",
            figures,
        )
    error = abs(declared.mean / evidence.t) if evidence.t else float("inf")
    if declared.mean + 3 * error < CHANCE_SCORE:
        reason = f"{measured}: the image does not match the points, and no alternative fits either"
        return Verdict("edge alignment", "fail", reason, "", figures)
    reason = f"{measured} from {int(declared.number.sum())} points: too few edges to judge by"
    return Verdict("edge alignment", "cannot tell", reason, "", figures)


def _tolerance(images: int) -> float:
    """Displacement that fails. `SHIFT_TOLERANCE` is for a mean over `SETTLED_IMAGES` images; its
    spread falls with the root of their number.
    """
    return SHIFT_TOLERANCE * math.sqrt(max(1.0, SETTLED_IMAGES / max(images, 1)))


def _outcome(
    declared: Score, best: Misalignment | TimeOffset, tolerance: float, *, is_turned: bool = False
) -> Outcome:
    """Of a test that found where the edges fit best, and whether that turns the image too far."""
    if (best.displacement > tolerance or is_turned) and _is_sure(best.found, best.evidence):
        return "fail"
    is_near = best.displacement <= SHIFT_TOLERANCE and not is_turned
    return "pass" if above_zero(declared).p < PASS_CHANCE and is_near else "cannot tell"


def _doubt(outcome: Outcome, best: Misalignment | TimeOffset) -> str:
    """Why a test is undecided."""
    if outcome != "cannot tell":
        return ""
    if best.displacement > SHIFT_TOLERANCE:
        return ", but too few images or edges confirm it"
    return ", but too weakly to judge by"


def _judge_shift(looks: list[Look], declared: Score, moved: Misalignment) -> Verdict:
    tolerance = _tolerance(len(looks))
    figures: dict[str, Any] = {
        "turn_deg": list(moved.turn_deg),
        "image_scale": moved.image_scale,
        "shift_m": list(moved.shift_m),
        "displacement": moved.displacement,
        "tolerance": tolerance,
        "gain": moved.evidence.difference,
        "p": moved.evidence.p,
    }
    turn = ", ".join(f"{angle:g}" for angle in moved.turn_deg)
    shift = ", ".join(f"{distance:.2g}" for distance in moved.shift_m)
    measured = (
        f"edges fit best {100 * moved.displacement:.2f} % of the width away (tolerance "
        f"{100 * tolerance:.2g} %, or {ROLL_TOLERANCE_DEG:g} degrees about z; points "
        f"turned by ({turn}) degrees and moved by ({shift}) m, image scale {moved.image_scale:g})"
    )
    is_turned = abs(moved.turn_deg[2]) > ROLL_TOLERANCE_DEG
    outcome = _outcome(declared, moved, tolerance, is_turned=is_turned)
    fault = _fault_of(looks[0], moved) if outcome == "fail" else ""
    return Verdict("shift test", outcome, measured + _doubt(outcome, moved), fault, figures)


def _judge_time(images: int, declared: Score, late: TimeOffset | None) -> Verdict:
    name = "time test"
    if late is None:
        return Verdict(name, "cannot tell", "no frame has poses before and after it")
    tolerance = _tolerance(images)
    figures: dict[str, Any] = {
        "intervals": late.intervals,
        "milliseconds": late.milliseconds,
        "displacement": late.displacement,
        "tolerance": tolerance,
        "gain": late.evidence.difference,
        "p": late.evidence.p,
    }
    offset = f"{late.intervals:+g} frame intervals"
    if late.milliseconds is not None:
        offset = f"{late.milliseconds:+.0f} ms"
    measured = (
        f"edges fit best with the images' time {offset}, {100 * late.displacement:.2f} % of the "
        f"width away (tolerance {100 * tolerance:.2g} %)"
    )
    if late.reach < 2 * SHIFT_TOLERANCE:
        reason = (
            f"a frame interval moves the points by only {100 * late.reach:.2f} % of the width: too "
            "little motion to judge by"
        )
        return Verdict(name, "cannot tell", reason, "", figures)
    outcome = _outcome(declared, late, tolerance)
    fault = TIME_FAULT if outcome == "fail" else ""
    return Verdict(name, outcome, measured + _doubt(outcome, late), fault, figures)


def _is_sure(found: Score, evidence: Evidence) -> bool:
    """Above zero and above the declared one, by more than chance and by more than a little."""
    return (
        evidence.p < SHIFT_CHANCE
        and above_zero(found).p < SHIFT_CHANCE
        and evidence.difference > SHIFT_RELATIVE_GAIN * found.mean
    )


def _fault_of(look: Look, moved: Misalignment) -> str:
    scaled = abs(moved.image_scale - 1)
    if look.depth_camera is not None and scaled > 0.04:
        return UNREGISTERED if _is_declared_registered(look) else WRONG_FOCAL_LENGTH
    return "stale calibration" if scaled < 0.1 else WRONG_FOCAL_LENGTH


def _is_declared_registered(look: Look) -> bool:
    """Whether depth and image are said to be of one camera at one place, to 1 mm and 1 px."""
    depth, color = look.depth_camera, look.camera
    assert depth is not None
    cameras = [(one.fx, one.fy, one.cx, one.cy) for one in (depth, color)]
    is_one_place = np.allclose(look.camera_from_sensor, np.eye(4), atol=1e-3)
    return is_one_place and np.allclose(*cameras, rtol=0, atol=1.0)


def judge_poses(pairs: Sequence[FramePair]) -> Verdict:
    """The test `depth agreement` of posed frames."""
    name = "depth agreement"
    if not pairs:
        return Verdict(name, "cannot tell", "no sequence has two posed frames")
    declared = agreement(pairs, PoseHypothesis("", "", declared_poses))
    tried = [(one, agreement(pairs, one)) for one in pose_hypotheses(pairs)]
    still = tried[0][1]
    likelier = [
        (one, found)
        for one, found in tried
        if found.mean - declared.mean > AGREEMENT_GAIN
        and found.number.sum() > 0.2 * max(declared.number.sum(), 1)
    ]
    likelier.sort(key=lambda entry: -entry[1].mean)
    better = [
        (one, found) for one, found in likelier if above(found, declared).p * len(tried) < CHANCE
    ]
    figures: dict[str, Any] = {
        "agreement": declared.mean,
        "without_motion": still.mean,
        "pairs": len(pairs),
        "better": [
            {"fault": one.fault, "detail": one.detail, "agreement": found.mean}
            for one, found in better[:5]
        ],
    }
    measured = f"{100 * declared.mean:.1f} % of the depths agree"
    if better:
        best, found = better[0]
        reason = f"{measured}, but {100 * found.mean:.1f} % if {best.fault}: {best.detail}"
        return Verdict(name, "fail", reason, best.fault, figures)
    if likelier:
        best, found = likelier[0]
        measured += f", {100 * found.mean:.1f} % if {best.fault}: {best.detail}"
        reason = f"{measured}; {len(pairs)} pairs of frames are too few to be sure"
        return Verdict(name, "cannot tell", reason, "", figures)
    measured += f", {100 * still.mean:.1f} % if the poses are left out"
    if above(declared, still).p < CHANCE:
        return Verdict(name, "pass", measured, "", figures)
    return Verdict(name, "cannot tell", f"{measured}: too little motion to judge by", "", figures)
