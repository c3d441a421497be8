"""The pictures of a report: a few frames as the teacher and the students see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from p2pkit.errors import ConfigError
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.geometry.maps.grid import FeatureGrid, grid_from_json
from p2pkit.layers.features import pair_features, usable_pairs
from p2pkit.layers.geometry import PointCloud
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.report.networks import NetworkName, RunNetworks
from p2pkit.pipelines.report.pictures import (
    PrincipalBasis,
    ReadFeatures,
    depth_colors,
    draw_points,
    label_colors,
    mark_pixels,
    principal_basis,
    principal_colors,
)
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store
from p2pkit.stream.order import locate
from p2pkit.viewer import FeatureLayer, PointFrame

Picture = UInt8[np.ndarray, "height width 4"]
DRAWN_WIDTH, MOST_WIDTH = 480, 4096
IMAGE, TEACHER = "Image (colours of the points)", "2D teacher"
STUDENT, RANDOM = "3D student, pretrained", "3D student, random weights"


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """One frame's pictures, all of one size.

    Args:
        key: the frame's key.
        pictures: by caption, in the order in which they are shown.
        classes: label values that occur.
        points: the same values for the interactive viewer.
    """

    key: str
    pictures: Mapping[str, Picture]
    classes: tuple[int, ...]
    points: PointFrame


@dataclass(frozen=True)
class FrameView:
    """The pairs of one view of a frame, and their positions in its image.

    Args:
        cloud, features: the frame's geometry and its sample of the feature layer, empty if none
            is shown.
        number: the view.
        rows: of the cloud's pairs, those that have a feature if a feature layer is shown.
        camera_from_sensor: from the axes of the cloud's points to the camera's.
        camera_points: the rows' points in the view's camera axes (m).
        camera: of the view.
        grid: of the teacher's cells; None if no feature layer is shown.
        up: unit vector against gravity in camera axes.
        most_width: most width of a drawn picture (px); scaling down also closes the gaps
            between the points of a LiDAR.
    """

    cloud: PointCloud
    features: Sample
    number: int
    rows: Int64[np.ndarray, " rows"]
    camera_from_sensor: Float64[np.ndarray, "4 4"]
    camera_points: Float32[np.ndarray, "rows 3"]
    camera: Camera
    grid: FeatureGrid | None
    up: tuple[float, float, float]
    most_width: int

    @property
    def key(self) -> str:
        """Of the frame."""
        return self.cloud.key

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of the recording's image (px)."""
        return self.cloud.image_sizes[self.number]

    @property
    def scale(self) -> float:
        """Of a drawn picture to the image."""
        return min(1.0, self.most_width / self.image_size[0])

    @property
    def drawn_size(self) -> tuple[int, int]:
        """Width and height of a drawn picture (px)."""
        width, height = self.image_size
        return max(round(width * self.scale), 1), max(round(height * self.scale), 1)

    def drawn_uv(self, pixel_uv: Float[np.ndarray, "*pixels 2"]) -> Float[np.ndarray, "*pixels 2"]:
        """Where pixels of the image are in a drawn picture (px, centres at integers)."""
        return self.scale * (pixel_uv + 0.5) - 0.5

    @property
    def depth_m(self) -> Float32[np.ndarray, " rows"]:
        """Along the optical axis (m)."""
        return self.camera_points[:, 2]

    @property
    def depth_range_m(self) -> tuple[float, float]:
        """Depths (m) between which 98 % of the rows lie: a LiDAR's few farthest would hide them."""
        near, far = np.percentile(self.depth_m, [1, 99])
        return float(near), float(far)

    def depth_colors(self) -> UInt8[np.ndarray, "rows 3"]:
        """Dark at the near end of `depth_range_m`, bright at the far one."""
        return depth_colors(self.depth_m, *self.depth_range_m)

    def confidence_colors(self) -> UInt8[np.ndarray, "rows 3"] | None:
        """Dark for uncertain pairs, bright for certain ones; None in stores without confidence."""
        found = self.cloud.pair_confidence
        return (
            None if found is None else depth_colors(found[self.rows].astype(np.float64), 0.0, 255.0)
        )

    def plain_colors(self) -> dict[str, UInt8[np.ndarray, "rows 3"]]:
        """Values in the store by which points can be coloured."""
        found = {"image": self.of_points(self.cloud.colors), "depth": self.depth_colors()}
        confidence = self.confidence_colors()
        if confidence is not None:
            found["pair confidence"] = confidence
        if self.cloud.labels is not None:
            found["labels"] = label_colors(self.of_points(self.cloud.labels))
        return found

    def draw(self, colors: UInt8[np.ndarray, "rows 3"]) -> Picture:
        """One colour per row at the row's pixel."""
        uv = self.drawn_uv(self.cloud.pixels[self.rows])
        return draw_points(colors, uv, self.depth_m, self.drawn_size)

    def image(self) -> Picture:
        """The image's colours at the rows; a store keeps no images."""
        return self.draw(self.of_points(self.cloud.colors))

    def of_points(self, values: np.ndarray) -> np.ndarray:
        """The values of the rows, taken from those of all points."""
        return values[self.cloud.pair_point[self.rows]]

    def points(self, features: Mapping[str, FeatureLayer]) -> PointFrame:
        """The rows for the interactive viewer, coloured by what the store gives and by features."""
        return PointFrame(self.key, self.camera_points, self.plain_colors(), features, self.up)

    def draw_with_cells(self, colors: UInt8[np.ndarray, "rows 3"]) -> Picture:
        """As `draw`, with a dot at the centre of each of the teacher's cells."""
        assert self.grid is not None
        centres = self.drawn_uv(self.grid.cell_centres(self.image_size))
        return mark_pixels(self.draw(colors), centres)


def drawn_frames(views: Sequence[FrameView], networks: RunNetworks) -> list[DrawnFrame]:
    """Draw frames as the teacher and the two students see them.

    All features are embeddings: the pretrained network's heads project the teacher's features and
    the student's into one space, where the loss compares them. One basis, fitted to these two,
    colours them and the random network's embeddings in all frames.
    """
    readers = [
        {
            TEACHER: embedded_teacher(view, networks),
            STUDENT: embedded_student(view, networks, "pretrained"),
            RANDOM: embedded_student(view, networks, "random"),
        }
        for view in views
    ]
    basis = principal_basis(
        [
            (len(view.rows), read[name])
            for view, read in zip(views, readers, strict=True)
            for name in (TEACHER, STUDENT)
        ]
    )
    return [_draw(view, read, basis) for view, read in zip(views, readers, strict=True)]


def stored_pictures(store: Store, layer: str | None, sample: int) -> dict[str, Picture]:
    """A frame as the store has it, in the view that sees most of its points.

    Colours, depth, labels if there are any, and principal components of the layer's features.
    """
    view = open_view(store, layer, sample, most_width=MOST_WIDTH)
    found = {"colours": view.image(), "depth": view.draw(view.depth_colors())}
    if view.cloud.labels is not None:
        found["labels"] = view.draw(label_colors(view.of_points(view.cloud.labels)))
    if layer is None:
        return found
    (teacher,) = principal_colors([(len(view.rows), teacher_reader(view))])
    return {**found, "teacher": view.draw_with_cells(teacher)}


def open_view(
    store: Store, layer: str | None, sample: int, *, most_width: int = DRAWN_WIDTH
) -> FrameView:
    """A frame in the view that sees most of its points.

    Raises:
        ConfigError: no view sees any.
    """
    views = open_views(store, layer, sample, most_width=most_width)
    if not views:
        key = read_cloud(store, sample).key
        raise ConfigError(
            f"no camera of {key} in {store.root} sees a point; name other frames, or write the "
            "points with `p2pkit view --ply`"
        )
    return max(views, key=lambda view: len(view.rows))


def open_views(
    store: Store, layer: str | None, sample: int, *, most_width: int = DRAWN_WIDTH
) -> list[FrameView]:
    """A frame in each view that sees some of its points; without features if no layer is named."""
    cloud = read_cloud(store, sample)
    place = locate(store.sizes("geometry"), sample)
    features = Sample(cloud.key, {}, {}) if layer is None else store.read(layer, *place)
    meta = store.read("geometry", *place, fields=()).meta
    usable = usable_pairs(features, cloud)
    fields = [field.name for field in store.layer("geometry").fields]
    found: list[FrameView] = []
    for number, view in enumerate(meta["views"]):
        rows = usable[cloud.pair_view[usable] == number]
        if not len(rows):
            continue
        camera_from_sensor = np.array(view["camera_from_sensor"])
        points = cloud.points[cloud.pair_point[rows]]
        in_camera = points @ camera_from_sensor[:3, :3].T + camera_from_sensor[:3, 3]
        found.append(
            FrameView(
                cloud=cloud,
                features=features,
                rows=rows,
                number=number,
                camera_from_sensor=camera_from_sensor,
                camera_points=in_camera.astype(np.float32),
                camera=camera_from_json(view["camera"], cloud.key),
                grid=None if layer is None else grid_from_json(features.meta["grids"][number]),
                up=up_of("points" if "points" in fields else "depth", camera_from_sensor),
                most_width=most_width,
            )
        )
    return found


def up_of(
    stored: Literal["depth", "points"], camera_from_sensor: np.ndarray
) -> tuple[float, float, float]:
    """Unit vector against gravity in camera axes.

    Frames of points have their sensor's z axis up; a depth camera is taken to be held level.
    """
    x, y, z = camera_from_sensor[:3, 2] if stored == "points" else (0.0, -1.0, 0.0)
    return float(x), float(y), float(z)


def teacher_reader(view: FrameView) -> ReadFeatures:
    """Reads the teacher's features at the rows of the view."""
    return lambda rows: pair_features(view.features, view.cloud, view.rows[rows])


def embedded_teacher(view: FrameView, networks: RunNetworks) -> ReadFeatures:
    """Reads the teacher's features at the rows of the view, projected by the pretrained head."""
    head, device = networks.pretrained.pixel_projection, networks.config.device

    def read(rows: np.ndarray) -> np.ndarray:
        features = pair_features(view.features, view.cloud, view.rows[rows], basis=networks.basis)
        with torch.inference_mode():
            return head(torch.from_numpy(features).to(device)).cpu().numpy()

    return read


def embedded_student(view: FrameView, networks: RunNetworks, name: NetworkName) -> ReadFeatures:
    """Reads a student's features at the rows of the view, projected by its own head."""
    model = networks.pretrained if name == "pretrained" else networks.random
    features, device = networks.point_features(name, view.cloud), networks.config.device

    def read(rows: np.ndarray) -> np.ndarray:
        wanted = torch.from_numpy(features[view.cloud.pair_point[view.rows[rows]]])
        with torch.inference_mode():
            return model.point_projection(wanted.to(device)).cpu().numpy()

    return read


def _draw(
    view: FrameView, readers: Mapping[str, ReadFeatures], basis: PrincipalBasis
) -> DrawnFrame:
    projected = {name: basis.project(len(view.rows), read) for name, read in readers.items()}
    near, far = view.depth_range_m
    pictures = {
        IMAGE: view.image(),
        TEACHER: view.draw_with_cells(basis.colors(projected[TEACHER])),
        STUDENT: view.draw(basis.colors(projected[STUDENT])),
        RANDOM: view.draw(basis.colors(projected[RANDOM])),
        f"Depth, {near:.1f} m (dark) to {far:.1f} m (bright)": view.draw(view.depth_colors()),
    }
    classes: tuple[int, ...] = ()
    if view.cloud.labels is not None:
        labels = view.of_points(view.cloud.labels)
        pictures["Labels (not used in pretraining)"] = view.draw(label_colors(labels))
        classes = tuple(np.unique(labels).tolist())
    layers = {name: basis.layer(values) for name, values in projected.items()}
    return DrawnFrame(view.key, pictures, classes, view.points(layers))
