"""`scannet-scenes`: the vertices of ScanNet's published meshes as labelled points, without images.

Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017. Each scene's
folder holds `SCENE_vh_clean_2.ply` (positions and colours) and, where the labels are public,
`SCENE_vh_clean_2.labels.ply` with the same vertices and their NYU40 labels. The benchmark scores
these vertices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    frame_list_digest,
    known_frame,
    safe_key,
)
from p2pkit.datasets.points.ply import read_vertices
from p2pkit.datasets.rgbd.scannet.labels import CLASSES_20, classes_20, positions
from p2pkit.errors import FrameError, SourceError

MESH, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
_PLACES = ("", "*/", "scans/*/", "scans_test/*/")


@dataclass(frozen=True)
class Scene:
    """A scene, not yet read."""

    key: str
    mesh: Path

    @property
    def sequence(self) -> str:
        """The scene is its own sequence."""
        return self.key

    @property
    def labels(self) -> Path:
        """The mesh with labels, which test scenes lack."""
        return self.mesh.with_name(self.mesh.name.removesuffix(MESH) + LABELS)


class ScanNetScenes:
    """ScanNet's scenes as a `FrameSource` of frames without views; a frame is a whole scene.

    Points are the vertices in their order, z up, in the scene's coordinates. Scenes without labels
    are void throughout, if others have them.

    Raises:
        SourceError: the folder has no scene with a mesh.
    """

    name = "scannet-scenes"

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        meshes = sorted({path for place in _PLACES for path in root.glob(f"{place}scene*{MESH}")})
        if not meshes:
            raise SourceError(
                f"{root} contains no scene0000_00{MESH}, nor do its folders; give a scene's "
                "folder, or the folder of scenes"
            )
        scenes = [Scene(safe_key(path.name.removesuffix(MESH)), path) for path in meshes]
        self._scenes = chosen_frames(scenes, options)
        has_labels = any(scene.labels.is_file() for scene in scenes)
        names = ("void", *CLASSES_20.values())
        self.label_names: Sequence[str] | None = names if has_labels else None
        self.ignore_label: int | None = 0 if has_labels else None

    def keys(self) -> Sequence[str]:
        """`scene0000_00`: the scenes."""
        return list(self._scenes)

    def load(self, key: str) -> Frame:
        """Read one scene.

        Raises:
            FrameError: a mesh is damaged, has no colours, or the labels are of other vertices.
        """
        scene = known_frame(self._scenes, key)
        try:
            vertices = read_vertices(scene.mesh)
            points = positions(vertices, scene.mesh)
            labels = None if self.label_names is None else _labels(scene, vertices)
        except FrameError:
            raise
        except SourceError as error:
            raise FrameError(key, str(error)) from error
        return Frame(
            key=key,
            views=(),
            points=points.astype(np.float32),
            world_from_sensor=np.eye(4),
            labels=labels,
            sequence=scene.sequence,
            colors=_colors(vertices, scene),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest with the sizes of the meshes, and the class names."""
        scenes = self._scenes.values()
        files = ((scene.key, (scene.mesh, scene.labels)) for scene in scenes)
        return {
            "dataset": self.name,
            "frames": len(scenes),
            "frame_list": frame_list_digest(files),
            "labels": None if self.label_names is None else list(self.label_names),
        }


def _labels(scene: Scene, vertices: np.ndarray) -> UInt8[np.ndarray, " vertices"]:
    if not scene.labels.is_file():
        return np.zeros(len(vertices), np.uint8)
    labelled = read_vertices(scene.labels)
    if len(labelled) != len(vertices):
        raise FrameError(
            scene.key,
            f"{scene.labels.name} has {len(labelled)} vertices, {scene.mesh.name} {len(vertices)}",
        )
    return classes_20(labelled, scene.labels)


def _colors(vertices: np.ndarray, scene: Scene) -> UInt8[np.ndarray, "vertices 3"]:
    names = ("red", "green", "blue")
    if any(name not in (vertices.dtype.names or ()) for name in names):
        raise FrameError(scene.key, f"{scene.mesh.name} has no colours: red, green and blue")
    return np.stack([vertices[name] for name in names], axis=1).astype(np.uint8)
