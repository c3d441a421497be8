"""`p2pkit plan`: estimate the cost of an extraction before it starts."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.commands.extract import extract_config, extraction_options
from p2pkit.cli.options import AS_JSON, option_of, setting_of
from p2pkit.cli.progress import progress_bar, shown_on
from p2pkit.pipelines.extract.settings import PlanConfig

if TYPE_CHECKING:
    from p2pkit.pipelines.extract.plan import ExtractionPlan, LayerPlan

GIGABYTE = 1e9


@click.command()
@extraction_options
@option_of(setting_of(PlanConfig, "frames"))
@AS_JSON
def plan(frames: int, as_json: bool, config_file: Path | None, **_: Any) -> None:
    """Estimate the size, teacher passes and time of an extraction; write nothing.

    A few frames, spread over the recording, are extracted in memory and scaled up; eight times as
    many without the teacher, because geometry varies more. Takes the options of `p2pkit extract`
    except --engine and --print-config.

    Example: p2pkit plan --dataset demo-scene --limit 8 --probe 4
    """
    from dataclasses import asdict

    from p2pkit.pipelines.extract.plan import run

    with tempfile.TemporaryDirectory() as nowhere:
        config = extract_config(config_file, store_else=Path(nowhere) / "none.store")
        with progress_bar("frames probed") as bar:
            planned = run(PlanConfig(config, frames), progress=shown_on(bar))
    click.echo(json.dumps(asdict(planned), indent=1) if as_json else "\n".join(_text(planned)))


def _text(planned: "ExtractionPlan") -> list[str]:
    lines = [
        f"{planned.frames} frames in {planned.shards} {planned.storage} shards; "
        f"{len(planned.probed)} frames probed, {planned.probed_geometry} for their geometry, "
        f"{len(planned.failed)} of them bad",
    ]
    lines += [f"  {key}: {reason}" for key, reason in planned.failed.items()]
    for layer in planned.layers:
        lines += ["", *_layer_text(layer, planned.frames)]
    spread = planned.bytes_uncertainty
    margin = f" ± {spread:.1%}" if spread is not None else ""
    lines += ["", f"total           {_size(planned.bytes)}{margin}"]
    passes, left = planned.teacher_passes, planned.teacher_passes_left
    if passes:
        lines.append(
            f"teacher passes  {left} of {planned.teacher} to do, {passes - left} done",
        )
    return [
        *lines,
        f"time            about {_duration(planned.seconds_left)} for one worker on this machine, "
        f"estimated from {1e3 * planned.seconds_per_frame:.0f} ms per probed frame for all layers",
    ]


def _layer_text(layer: "LayerPlan", frames: int) -> list[str]:
    kind = f", {layer.map}" if layer.map is not None else ""
    if layer.explained_variance is not None:
        kind += f" ({layer.explained_variance:.1%} of the fitted cells' variance)"
    done = f", {layer.frames_done} of {frames} frames done" if layer.frames_done else ""
    rows = [f"{layer.name}{kind}: {_size(layer.bytes)}{done}"]
    for name, size in layer.fields.items():
        codec = layer.codecs.get(name, "")
        rows.append(f"  {name:<16}{codec:<18}{size / frames:12,.0f} bytes/frame{_size(size):>14}")
    return rows


def _size(count: int) -> str:
    if count < GIGABYTE / 10:
        return f"{count / 1e6:.2f} MB"
    return f"{count / GIGABYTE:.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
