"""How a teacher's features become the numbers that a layer stores, and back.

`float16` stores them as they are. `int8` stores one byte per value: each channel of each map has
its own smallest value and step, so a channel that is small everywhere loses nothing to one that is
large, and exact zeros behind a ReLU stay exact. `pca:K` stores the K coefficients on the directions
of largest variance; readers return the coefficients, because the trained linear
map behind them absorbs basis and mean: W (mean + B c) + b = (W B) c + (W mean + b).
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float32, UInt8

from p2pkit.errors import ConfigError, StoreError
from p2pkit.store.manifest import LayerSpec

STEPS = 255
HELD_OUT = 4
"""One frame in this many is left out of a fit, to test the basis."""


@dataclass(frozen=True)
class MapCoding:
    """Which numbers a feature layer stores.

    Args:
        components: kept coefficients of a principal component analysis; None keeps all channels.
        int8: one byte per value instead of float16.
    """

    components: int | None = None
    int8: bool = False

    @property
    def name(self) -> str:
        """What `parse_map_coding` reads: float16, int8, pca:K or pca:K+int8."""
        if self.components is None:
            return "int8" if self.int8 else "float16"
        return f"pca:{self.components}{'+int8' if self.int8 else ''}"


def parse_map_coding(text: str) -> MapCoding:
    """Read `float16`, `int8`, `pca:K` or `pca:K+int8`.

    Raises:
        ConfigError: it is none of these, or K is 0.
    """
    if text in ("float16", "int8"):
        return MapCoding(int8=text == "int8")
    match = re.fullmatch(r"pca:([1-9]\d{0,5})(\+int8)?", text)
    if match is None:
        raise ConfigError(
            f"map is {text!r}; expected float16, int8, pca:K or pca:K+int8, such as pca:64"
        )
    return MapCoding(components=int(match[1]), int8=match[2] is not None)


@dataclass(frozen=True, eq=False)
class PcaBasis:
    """The directions that `pca:K` keeps.

    Args:
        mean: of the probe's cells.
        components: orthonormal rows, largest variance first.
        explained_variance: share of the fitted cells' variance along each component.
        held_out_variance: share that all components explain of the variance (about `mean`) of
            cells that were not fitted; None where the probe was too small to leave any out.
        cells: number of fitted cells.
    """

    mean: Float32[np.ndarray, " channels"]
    components: Float32[np.ndarray, "components channels"]
    explained_variance: tuple[float, ...]
    held_out_variance: float | None
    cells: int

    @property
    def sha256(self) -> str:
        """Hex digest of the bytes of `mean`, then of `components`, as little-endian float32."""
        return hashlib.sha256(_bytes(self.mean) + _bytes(self.components)).hexdigest()

    def project(
        self, features: Float[np.ndarray, "*rows channels"]
    ) -> Float32[np.ndarray, "*rows components"]:
        """Coefficients. In float64, so that no machine's order of sums shows in float16."""
        centred = features.astype(np.float64) - self.mean
        return (centred @ self.components.T.astype(np.float64)).astype(np.float32)

    def reconstruct(
        self, coefficients: Float[np.ndarray, "*rows components"]
    ) -> Float32[np.ndarray, "*rows channels"]:
        """The teacher's features, but for what lies outside the basis."""
        return coefficients.astype(np.float32) @ self.components + self.mean

    def to_json(self) -> dict[str, Any]:
        """The entry `pca` of a layer's details."""
        return {
            "components": len(self.components),
            "channels": len(self.mean),
            "explained_variance": list(self.explained_variance),
            "held_out_variance": self.held_out_variance,
            "cells": self.cells,
            "mean_base64": base64.b64encode(_bytes(self.mean)).decode(),
            "basis_base64": base64.b64encode(_bytes(self.components)).decode(),
        }


def pca_basis(layer: LayerSpec) -> PcaBasis | None:
    """The basis of a feature layer; None where it stores the channels themselves.

    Raises:
        StoreError: the basis is not the one that the layer's fingerprint names.
    """
    value: dict[str, Any] | None = layer.details.get("pca")
    if value is None:
        return None
    try:
        shape = (int(value["components"]), int(value["channels"]))
        basis = PcaBasis(
            mean=_floats(value["mean_base64"], shape[1:]),
            components=_floats(value["basis_base64"], shape),
            explained_variance=tuple(value["explained_variance"]),
            held_out_variance=value["held_out_variance"],
            cells=int(value["cells"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"layer {layer.name}: details.pca cannot be read: {error!r}") from None
    wanted = layer.fingerprint.get("basis_sha256")
    if basis.sha256 != wanted:
        raise StoreError(
            f"layer {layer.name}: its PCA basis has the sha256 {basis.sha256}, but its "
            f"fingerprint names {wanted}; restore p2pkit.json from a copy"
        )
    return basis


def fit_basis(
    frames: Sequence[Sequence[Float16[np.ndarray, "height width channels"]]], components: int
) -> PcaBasis:
    """Principal components of the cells of some frames; every fourth frame only tests them.

    Args:
        frames: the maps of each frame's images. All cameras of a rig are fitted and tested.
        components: to keep.

    Raises:
        ConfigError: there are fewer channels or fitted cells than components.
    """
    tested = [found for frame in frames[HELD_OUT - 1 :: HELD_OUT] for found in frame]
    kept = [frame for row, frame in enumerate(frames) if row % HELD_OUT != HELD_OUT - 1]
    fitted = [found for frame in kept for found in frame]
    cells = sum(found.shape[0] * found.shape[1] for found in fitted)
    channels = fitted[0].shape[-1] if fitted else 0
    if components > min(channels, cells):
        raise ConfigError(
            f"pca:{components} needs at least as many channels and probed cells; there are "
            f"{channels} channels and {cells} cells: choose a smaller K"
        )
    mean = sum((_rows(found).sum(axis=0) for found in fitted), np.zeros(channels)) / cells
    variance, directions = np.linalg.eigh(_scatter(fitted, mean) / cells)
    variance, directions = np.maximum(variance[::-1], 0), directions.T[::-1][:components]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    directions = (directions * np.sign(largest)).astype(np.float32)
    total = float(variance.sum()) or 1.0
    mean = mean.astype(np.float32)
    return PcaBasis(
        mean=mean,
        components=np.ascontiguousarray(directions),
        explained_variance=tuple(round(float(v) / total, 6) for v in variance[:components]),
        held_out_variance=_explained(tested, mean, directions) if tested else None,
        cells=cells,
    )


@dataclass(frozen=True, eq=False)
class FeatureCoder:
    """Turns features into a layer's arrays.

    Args:
        int8: one byte per value.
        basis: of `pca:K`; None keeps all channels.
    """

    int8: bool = False
    basis: PcaBasis | None = None

    def project(
        self, feature_map: Float16[np.ndarray, "height width channels"]
    ) -> Float[np.ndarray, "height width stored"]:
        """The map's coefficients, or the map itself without a basis."""
        return feature_map if self.basis is None else self.basis.project(feature_map)

    def arrays(
        self, name: str, parts: Sequence[Float[np.ndarray, "*rows stored"]], *, stacked: bool
    ) -> dict[str, np.ndarray]:
        """The field `name`, and with `int8` also `<name>_scale`.

        Args:
            name: of the field.
            parts: projected features; each gets its own scale.
            stacked: whether the arrays have an axis for the parts; else there must be one part.

        Raises:
            StoreError: a coefficient is too large for float16.
        """
        halves = [_half(part) for part in parts]
        if not self.int8:
            return {name: np.stack(halves) if stacked else halves[0]}
        pairs = [quantise(half) for half in halves]
        values, scales = ([pair[i] for pair in pairs] for i in (0, 1))
        if stacked:
            return {name: np.stack(values), f"{name}_scale": np.stack(scales)}
        return {name: values[0], f"{name}_scale": scales[0]}


def quantise(
    values: Float16[np.ndarray, "*rows channels"],
) -> tuple[UInt8[np.ndarray, "*rows channels"], Float16[np.ndarray, "2 channels"]]:
    """Bytes q and (smallest value, step) of each channel; a value is smallest + step * q.

    The smallest value is exact, the step is rounded up to float16, so no value is clipped and none
    is off by more than half a step.
    """
    rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
    if len(rows) == 0:
        return np.zeros(values.shape, np.uint8), np.zeros((2, values.shape[-1]), np.float16)
    low = rows.min(axis=0)
    exact = (rows.max(axis=0) - low) / STEPS
    step = exact.astype(np.float16)
    step = np.where(step < exact, np.nextafter(step, np.float16(np.inf)), step)
    ratio = (rows - low) / np.where(step > 0, step, 1).astype(np.float64)
    return (
        np.rint(ratio).astype(np.uint8).reshape(values.shape),
        np.stack([low.astype(np.float16), step]),
    )


def undo_scale(
    values: Float32[np.ndarray, "rows channels"], scale: Float16[np.ndarray, "2 channels"]
) -> Float32[np.ndarray, "rows channels"]:
    """Features from bytes, or from weighted means of bytes: the weights of a mean sum to one.

    `values` is changed in place and given back.
    """
    low, step = scale.astype(np.float32)
    values *= step
    values += low
    return values


def _half(values: Float[np.ndarray, "*rows stored"]) -> Float16[np.ndarray, "*rows stored"]:
    if values.dtype == np.float16:
        return values
    largest = float(np.abs(values).max(initial=0))
    if not largest <= float(np.finfo(np.float16).max):
        raise StoreError(
            f"a feature has magnitude {largest}, and float16 holds at most 65504; store the map as "
            "float16 without pca, or choose another layer of the teacher"
        )
    return values.astype(np.float16)


def _rows(feature_map: np.ndarray) -> np.ndarray:
    return feature_map.reshape(-1, feature_map.shape[-1]).astype(np.float64)


def _scatter(maps: Iterable[np.ndarray], mean: np.ndarray) -> np.ndarray:
    total = np.zeros((len(mean), len(mean)))
    for found in maps:
        centred = _rows(found) - mean
        total += centred.T @ centred
    return total


def _explained(maps: Sequence[np.ndarray], mean: np.ndarray, directions: np.ndarray) -> float:
    """Share of the squared distance from `mean` that lies along the directions."""
    kept = whole = 0.0
    for found in maps:
        centred = _rows(found) - mean
        whole += float(np.square(centred).sum())
        kept += float(np.square(centred @ directions.T).sum())
    return round(kept / (whole or 1.0), 6)


def _bytes(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()


def _floats(text: str, shape: tuple[int, ...]) -> np.ndarray:
    data = base64.b64decode(text, validate=True)
    return np.frombuffer(data, "<f4").reshape(shape).astype(np.float32)
