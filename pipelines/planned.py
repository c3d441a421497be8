"""What `plan` tells of an extraction."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerPlan:
    """What a layer will take.

    Args:
        name: of the layer.
        bytes: of all its shards, without records.
        fields: bytes of each field, of the samples' `json`, and of the shards' `tables`.
        codecs: of each field.
        frames_done: frames whose shards of this layer are in the store already.
        map: the numbers that a feature layer stores; None of the geometry.
        explained_variance: share of the probe's variance that `pca:K` keeps; None without.
    """

    name: str
    bytes: int
    fields: dict[str, int]
    codecs: dict[str, str]
    frames_done: int
    map: str | None = None
    explained_variance: float | None = None


@dataclass(frozen=True)
class ExtractionPlan:
    """What an extraction will cost.

    Args:
        frames: of the recording.
        shards: that they are cut into.
        storage: tar or zarr.
        layers: geometry, then the teacher's and the superpixels', those that are asked for.
        bytes: of all layers.
        bytes_uncertainty: two standard errors of `bytes`, as a share; 0 where all frames were
            probed, None where one frame tells nothing of the spread.
        teacher: its name, or `none`.
        teacher_passes: images that the teacher must see for the whole layer.
        teacher_passes_left: those whose shards are not in the store yet.
        seconds_per_frame: of all layers, measured on the probe, with the extraction's threads;
            reading, geometry, teacher, superpixels and codecs, not the disk.
        seconds_left: estimate for one worker on this machine; frames that lack some layers only are
            timed by themselves.
        probed: keys of the frames that the teacher saw.
        probed_geometry: how many frames were probed for their geometry, those included.
        failed: probed frames that cannot be used, with the reason; the same share of all frames is
            expected to fail.
    """

    frames: int
    shards: int
    storage: str
    layers: tuple[LayerPlan, ...]
    bytes: int
    bytes_uncertainty: float | None
    teacher: str
    teacher_passes: int
    teacher_passes_left: int
    seconds_per_frame: float
    seconds_left: float
    probed: tuple[str, ...]
    probed_geometry: int
    failed: dict[str, str]
