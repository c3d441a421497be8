"""What a store contains: points, a teacher's features, superpixels."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from p2pkit.errors import ConfigError
from p2pkit.settings import Seed, option, settings_class

if TYPE_CHECKING:
    from p2pkit.geometry.maps.joint_bilateral import JointBilateral
    from p2pkit.layers.map_coding import MapCoding
    from p2pkit.teachers.views import View

Layout = Literal["grid", "pixels"]
Precision = Literal["float32", "bfloat16", "float16"]
Size = Annotated[int, Field(ge=1)]


@settings_class
class GeometryConfig:
    """Which points of a frame are kept."""

    voxel_size: float = Field(
        default=0.0125,
        ge=0,
        description="Keep one point in each cube of this size (m); 0 keeps all. The default is "
        "half of the paper's training voxel (2.5 cm), so that augmenting and voxelising again "
        "leaves no holes.",
        json_schema_extra=option(default="0.0125; 0.05 for LiDARs"),
    )
    depth_min: float = Field(
        default=0.1,
        ge=0,
        description="Smallest depth kept of depth images (m); LiDAR points all stay.",
    )
    depth_max: float = Field(
        default=10.0,
        ge=0,
        description="Largest depth kept of depth images (m); LiDAR points all stay.",
    )
    near_limit: float = Field(
        default=0.0,
        ge=0,
        description="In frames of points, make no pairs with points nearer to the camera than this "
        "(m along its optical axis); 0 keeps them. `p2pkit extract` uses 1 m for LiDAR, as "
        "SLidR does, so that the vehicle itself is not learned.",
    )
    occlusion_margin: float = Field(
        default=0.05,
        ge=0,
        description="A point is hidden from a view that is not registered to the depth if it lies "
        "behind others by more than this distance (m) and more than `occlusion_margin_relative` of "
        "its depth; `geometry.confidence` says behind which.",
    )
    occlusion_margin_relative: float = Field(
        default=0.05, ge=0, description="The same margin as a share of the depth."
    )
    confidence_edge_px: float = Field(
        default=4.0,
        gt=0,
        le=64,
        description="Distance to a depth edge within which a pair is less certain (px).",
    )
    confidence_motion_px: float = Field(
        default=8.0,
        gt=0,
        description="Motion between points and image that makes a pair less certain (px).",
    )

    def __post_init__(self) -> None:
        if self.depth_min >= self.depth_max:
            raise ConfigError(
                f"the depth range is {self.depth_min} to {self.depth_max} m; expected the smaller "
                "first"
            )

    def fingerprint(self) -> dict[str, float]:
        """The settings by name; without a near limit where there is none."""
        found: dict[str, float] = asdict(self)
        if not self.near_limit:
            del found["near_limit"]
        return found


NAMED_WEIGHTS = ("default", "timm", "random")
"""What `TeacherOptions.weights` may be besides a file."""


@settings_class
class TeacherOptions:
    """Which frozen 2D network runs, and on what."""

    name: str = Field(
        default="tf_efficientnet_lite0",
        description="Any timm model, such as resnet50 or vit_small_patch14_dinov2.lvd142m, or "
        "hf:NAME, torchscript:FILE, onnx:FILE; none stores geometry and labels alone.",
        json_schema_extra=option(
            "--teacher", default="tf_efficientnet_lite0; none for recordings without images"
        ),
    )
    layer: int = Field(
        default=-1,
        description="Feature stage of the teacher, by index; negative counts from the last.",
        json_schema_extra=option(),
    )
    weights: str = Field(
        default="default",
        description="default, timm, random, or a file of weights. timm is timm's own download, a "
        "file is a state_dict (.pth, .pt, .safetensors); default means the installed ImageNet "
        "weights for tf_efficientnet_lite0, and timm for every other model.",
        json_schema_extra=option(),
    )
    input_size: tuple[Size, Size] | None = Field(
        default=None,
        description="Width and height that images are resized to (px). By default images keep "
        "their size.",
        json_schema_extra=option(),
    )
    output_stride: int | None = Field(
        default=None,
        description="Dilate the network to this stride, 8 or 16, where its family can; the "
        "network's own by default.",
    )
    device: str = Field(default="cpu", description="cpu or cuda.", json_schema_extra=option())
    seed: Seed = Field(default=0, description="Random seed of `random` weights.")
    final_norm: Literal["last", "all", "none"] = Field(
        default="last",
        description="Where a ViT's final norm is applied to its tokens: `last`, on its last layer, "
        "as the network itself does; `all`, on whichever layer is chosen; `none`. Other networks "
        "have none to apply.",
    )
    views: str = Field(
        default="",
        description="Further views whose maps are averaged with the image's: flip, scale:S with S "
        "from 0.25 to 4, or several with commas; empty for none.",
        json_schema_extra=option(default=""),
    )

    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Images that an accelerator computes at once, 32 by default. On a CPU images "
        "always run one by one, whatever the batch size.",
        json_schema_extra=option(default="32 on accelerators"),
    )
    precision: Precision = Field(
        default="float32",
        description="Number format that the teacher computes in, by torch's autocast; features are "
        "stored as float16 in any case.",
        json_schema_extra=option(),
    )
    compile: bool = Field(
        default=False,
        description="Compile the teacher with torch.compile, which takes about a minute at the "
        "start.",
    )

    @property
    def has_weights_file(self) -> bool:
        """Whether `weights` is a file."""
        return self.weights not in NAMED_WEIGHTS

    def norms(self, layer: int, count: int) -> bool:
        """Whether the final norm is applied to a layer, counted from the first, of `count`."""
        return self.final_norm == "all" or (self.final_norm == "last" and layer == count - 1)


@settings_class
class FeatureConfig:
    """What a feature layer stores."""

    teacher: TeacherOptions = Field(default=TeacherOptions(), description="The 2D network.")
    layout: Layout = Field(
        default="grid",
        description="Store the teacher's map, or its upsampled value at sampled pairs.",
        json_schema_extra=option("--features"),
    )
    pairs_per_frame: int = Field(
        default=16384,
        ge=0,
        description="Pairs per frame that the layout pixels stores; 0 stores all.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed for choosing the pairs that the layout pixels stores.",
    )
    map: str = Field(
        default="float16",
        description="Number format of the stored features: float16, int8, pca:K or pca:K+int8. K "
        "is the number "
        "of principal components, such as pca:64.",
        json_schema_extra=option(metavar="CODING"),
    )
    upsampling: str = Field(
        default="bilinear",
        description="Upsampling of the features that the layout pixels stores. joint-bilateral, "
        "with or without :RANGE_SIGMA, lets the image guide it.",
        json_schema_extra=option(metavar="bilinear|joint-bilateral[:RANGE_SIGMA]"),
    )
    stored_views: str = Field(
        default="",
        description="Further views of the image whose maps are stored beside the image's: flip, "
        "scale:S, with commas; empty for none. Training may draw one of them.",
    )

    # The texts are read by their own modules, which are imported when first needed: this one is
    # imported for `--help`.

    @property
    def coding(self) -> MapCoding:
        """`map`, read; ConfigError where it cannot be."""
        from p2pkit.layers.map_coding import parse_map_coding

        return parse_map_coding(self.map)

    @property
    def joint_bilateral(self) -> JointBilateral | None:
        """`upsampling`, read; None is bilinear.

        Raises:
            ConfigError: it cannot be read, or the layout stores nothing that is upsampled.
        """
        from p2pkit.geometry.maps.joint_bilateral import parse_upsampling

        found = parse_upsampling(self.upsampling)
        if found is not None and self.layout == "grid":
            raise ConfigError(
                f"upsampling is {self.upsampling!r} and the layout grid, which stores the map and "
                "leaves the upsampling, bilinear, to readers: add --features pixels"
            )
        return found

    @property
    def further_views(self) -> tuple[View, ...]:
        """`stored_views`, read.

        Raises:
            ConfigError: it cannot be read, names a view twice, or the layout stores no maps.
        """
        from p2pkit.teachers.views import check_scales, parse_views

        views = parse_views(self.stored_views)
        if views and self.layout == "pixels":
            raise ConfigError(
                f"views {self.stored_views!r} cannot be stored by the layout pixels: use "
                "--features grid, or average them"
            )
        if len({*views}) < len(views):
            raise ConfigError(
                f"views {self.stored_views!r} name one twice; storing it once is enough"
            )
        check_scales(self.stored_views, self.teacher.input_size)
        return views

    @property
    def view_names(self) -> list[str]:
        """The words of `stored_views`."""
        return [word.strip() for word in self.stored_views.split(",")] if self.stored_views else []

    @property
    def passes_per_image(self) -> int:
        """Teacher passes per image: one for the image itself and one for each further view."""
        from p2pkit.teachers.views import parse_views

        return 1 + len(self.further_views) + len(parse_views(self.teacher.views))


METHOD = "slic"
SLIC: dict[str, Any] = {
    "max_num_iter": 10,
    "sigma": 3.0,
    "spacing": None,
    "convert2lab": True,
    "enforce_connectivity": True,
    "min_size_factor": 0.5,
    "max_size_factor": 3,
    "slic_zero": False,
    "start_label": 0,
    "mask": None,
    "channel_axis": -1,
}
"""What else scikit-image's SLIC takes: its defaults in full, but for `sigma` (px), SLidR's."""


@settings_class
class SuperpixelConfig:
    """How an image is cut into superpixels. The defaults are SLidR's (Sautier et al. 2022)."""

    segments: int = Field(
        default=150,
        ge=1,
        description="Superpixels per image; SLIC returns about this many.",
    )
    compactness: float = Field(
        default=6.0,
        gt=0,
        description="Weight of spatial distance against colour difference; higher values give "
        "squarer superpixels.",
    )

    @property
    def name(self) -> str:
        """What `parse_superpixels` reads: slic:SEGMENTS:COMPACTNESS."""
        return f"{METHOD}:{self.segments}:{self.compactness:g}"

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the superpixels of an image."""
        return {
            "method": METHOD,
            "n_segments": self.segments,
            "compactness": self.compactness,
            **SLIC,
            "library": f"scikit-image {version('scikit-image')}",
        }


def parse_superpixels(text: str) -> SuperpixelConfig:
    """Read `slic:SEGMENTS` or `slic:SEGMENTS:COMPACTNESS`.

    Raises:
        ConfigError: it is neither, or a number is out of bounds.
    """
    method, *numbers = text.split(":")
    try:
        if method != METHOD or not 1 <= len(numbers) <= 2:
            raise ValueError
        return SuperpixelConfig(int(numbers[0]), *map(float, numbers[1:]))
    except ValueError:
        raise ConfigError(
            f"superpixels are {text!r}; expected slic:SEGMENTS or slic:SEGMENTS:COMPACTNESS, "
            "such as slic:150 or slic:150:6"
        ) from None


Superpixels = Annotated[
    SuperpixelConfig | None,
    BeforeValidator(lambda x: parse_superpixels(x) if isinstance(x, str) else x),
]
"""Settings of superpixels, or their name as text."""
