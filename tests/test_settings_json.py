"""What fingerprints and protocol cards are made of, byte by byte as at first."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from p2pkit.pipelines.evaluate.settings import FinetuneConfig, FrozenConfig, SplitConfig
from p2pkit.settings import config_from_json, config_to_json
from p2pkit.settings.evaluation import ProbeConfig
from p2pkit.settings.layers import (
    FeatureConfig,
    GeometryConfig,
    SuperpixelConfig,
    TeacherOptions,
)
from p2pkit.settings.stream import AugmentConfig

WRITTEN: list[tuple[Any, str]] = [
    (
        GeometryConfig(),
        '{"confidence_edge_px": 4.0, "confidence_motion_px": 8.0, "depth_max": 10.0, '
        '"depth_min": 0.1, "near_limit": 0.0, "occlusion_margin": 0.05, '
        '"occlusion_margin_relative": 0.05, '
        '"voxel_size": 0.0125}',
    ),
    (
        GeometryConfig(voxel_size=0.05, depth_max=4.5, confidence_edge_px=2.0),
        '{"confidence_edge_px": 2.0, "confidence_motion_px": 8.0, "depth_max": 4.5, '
        '"depth_min": 0.1, "near_limit": 0.0, "occlusion_margin": 0.05, '
        '"occlusion_margin_relative": 0.05, '
        '"voxel_size": 0.05}',
    ),
    (
        SuperpixelConfig(200, 10.0),
        '{"compactness": 10.0, "segments": 200}',
    ),
    (
        FeatureConfig(),
        '{"layout": "grid", "map": "float16", "pairs_per_frame": 16384, "seed": 0, '
        '"stored_views": "", "teacher": {"batch_size": null, "compile": false, '
        '"device": "cpu", "final_norm": "last", "input_size": '
        'null, "layer": -1, '
        '"name": "tf_efficientnet_lite0", "output_stride": null, "precision": "float32", '
        '"seed": 0, "views": "", '
        '"weights": "default"}, "upsampling": "bilinear"}',
    ),
    (
        FeatureConfig(
            teacher=TeacherOptions(name="resnet50", layer=2, input_size=(640, 480), views="flip"),
            layout="pixels",
            map="int8",
        ),
        '{"layout": "pixels", "map": "int8", "pairs_per_frame": 16384, "seed": 0, '
        '"stored_views": "", "teacher": {"batch_size": null, "compile": false, '
        '"device": "cpu", "final_norm": "last", "input_size": '
        '[640, 480], "layer": '
        '2, "name": "resnet50", "output_stride": null, "precision": "float32", '
        '"seed": 0, "views": "flip", '
        '"weights": "default"}, "upsampling": "bilinear"}',
    ),
    (
        FrozenConfig(),
        '{"most_neighbours": 20000, "neighbours": 20, "points_per_frame": 1000, "probe": '
        '{"balanced": false, "iterations": 200, "l2": 0.0001, "max_points": 100000, "seed": '
        '0}, "statistics_frames": 32}',
    ),
    (
        FrozenConfig(neighbours=5, probe=ProbeConfig(l2=1e-3, balanced=True)),
        '{"most_neighbours": 20000, "neighbours": 5, "points_per_frame": 1000, "probe": '
        '{"balanced": true, "iterations": 200, "l2": 0.001, "max_points": 100000, "seed": '
        '0}, "statistics_frames": 32}',
    ),
    (
        FinetuneConfig(),
        '{"augment": {"color_jitter": 0.1, "drop_color": 0.0, "drop_cuboids": 0.0, '
        '"drop_fraction": 0.0, "elastic": [[0.2, 0.4], [0.8, 1.6]], "flip_x": 0.0, '
        '"flip_y": 0.0, "intensity_gain": 0.0, "intensity_jitter": 0.0, "jitter_m": 0.0, '
        '"rotation_deg": 180.0, "scale": [0.9, 1.1], "tilt_deg": 2.8125, "up_axis": null}, '
        '"batch_size": 4, "choose": "best", "head_rate": 0.01, "rates": [], '
        '"scratch_rate": null, "steps": 200, '
        '"trunk_rate": '
        '0.002, "validation_frames": 200, "validations": 5, "warmup": 0.1, "weight_decay": '
        "0.01}",
    ),
    (
        FinetuneConfig(
            steps=10, warmup=0.0, augment=AugmentConfig(up_axis=(0.0, 0.0, 1.0), elastic=())
        ),
        '{"augment": {"color_jitter": 0.0, "drop_color": 0.0, "drop_cuboids": 0.0, '
        '"drop_fraction": 0.0, "elastic": [], "flip_x": 0.0, "flip_y": 0.0, '
        '"intensity_gain": 0.0, "intensity_jitter": 0.0, "jitter_m": 0.0, "rotation_deg": '
        '180.0, "scale": [0.9, 1.1], "tilt_deg": 2.8125, "up_axis": [0.0, 0.0, 1.0]}, '
        '"batch_size": 4, "choose": "best", "head_rate": 0.01, "rates": [], '
        '"scratch_rate": null, "steps": 10, '
        '"trunk_rate": '
        '0.002, "validation_frames": 200, "validations": 5, "warmup": 0.0, "weight_decay": '
        "0.01}",
    ),
    (
        SplitConfig(unit="time-block", gap_frames=4),
        '{"block_frames": 2, "gap_frames": 4, "test_scenes": [], "unit": "time-block"}',
    ),
]


@pytest.mark.parametrize(("config", "written"), WRITTEN)
def test_the_json_is_as_it_was(config: Any, written: str) -> None:
    assert json.dumps(asdict(config), sort_keys=True) == written
    assert json.dumps(config_to_json(config), sort_keys=True) == written
    assert config_from_json(type(config), json.loads(written)) == config
