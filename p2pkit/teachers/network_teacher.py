"""A loaded network as a teacher: threads, devices, half precision, fingerprint."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, UInt8
from torch import Tensor

from p2pkit.errors import ConfigError, TeacherError, first_line
from p2pkit.geometry.grid import FeatureGrid
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.grid_probe import check_declared, check_response, measure_grid
from p2pkit.teachers.network import TeacherNetwork


def check_teacher_device(options: TeacherOptions) -> None:
    """Raise ConfigError where torch cannot compute on a teacher's device.

    ONNX files run without torch and are not checked here: their runtime knows its own devices.
    """
    if options.name.startswith("onnx:"):
        return
    import torch

    try:
        torch.empty(0, device=options.device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {options.device!r} cannot be used: {reason}. Use --device cpu, or see "
            "`p2pkit doctor`"
        ) from None


def prefer_huge_pages() -> None:
    """Have torch ask the kernel for huge pages, unless the environment already decides that.

    A network's activations are allocated again for each image, hundreds of megabytes for a large
    one. In pages of 4 KiB the kernel then works as long as the network; in pages of 2 MiB it does
    not, and the maps are the same to the bit. Torch reads the variable when it first allocates
    memory and never again; without such pages it changes nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


Image = UInt8[np.ndarray, "height width 3"]

Map = Float16[np.ndarray, "cells_v cells_u channels"]

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class NetworkTeacher:
    """A frozen network; see `Teacher` for its methods.

    Images run one at a time, each on one thread of the CPU, several at once: torch's results
    change in the last bits with the number of threads that share a convolution, and this way they
    depend on neither the machine's cores nor the batch.

    Args:
        name: the library's name of the model.
        network: the loaded layer.
        device: where to run it, as torch names it.
    """

    def __init__(self, name: str, network: TeacherNetwork, device: str) -> None:
        self.name = name
        self.channels = network.channels
        self.weights_sha256 = network.weights_sha256
        self.weights_origin = network.weights_origin
        self.preprocessing: dict[str, Any] = network.preprocessing.to_json()
        self._network = network
        self._device = torch.device(device)
        self._layer = network.layer.to(self._device)
        self._grids: dict[tuple[int, int], FeatureGrid] = {}
        self._lock = threading.Lock()
        self._workers = _workers(self._device)

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """Where the map's cells sit for recordings of this size (width, height in px)."""
        size = self._network.preprocessing.size_for(image_size)
        with self._lock:
            if size not in self._grids:
                # On one thread like the images: on a busy machine many are slower by far.
                self._grids[size] = self._workers.submit(self._locate, size).result()
            return self._grids[size]

    def _locate(self, size: tuple[int, int]) -> FeatureGrid:
        declared = self._network.declared_grid
        if declared is None:
            stride = self._network.nominal_stride
            return measure_grid(self._layer, size, nominal_stride=stride, name=self.name)
        rows, columns = self._run(torch.zeros(1, 3, *size[::-1], device=self._device)).shape[1:3]
        stride, offset = declared
        grid = FeatureGrid(
            stride=(stride, stride), offset=(offset, offset), cells=(columns, rows), input_size=size
        )
        check = check_response if self._network.trust_offset else check_declared
        check(self._layer, grid, name=self.name)
        return grid

    def features(
        self, images: Sequence[Image]
    ) -> Float16[np.ndarray, "batch cells_v cells_u channels"]:
        """Feature maps of RGB images of one size; each map depends on its image alone."""
        sizes = {(image.shape[1], image.shape[0]) for image in images}
        if len(sizes) != 1:
            raise TeacherError(
                f"teacher {self.name}: expected one or more images of one size, found "
                f"{len(images)} images of sizes {sorted(sizes)}"
            )
        return np.stack(list(self._workers.map(self._map_of, images)))

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the maps' bytes, except the device."""
        size = self._network.preprocessing.input_size
        return {
            "name": self.name,
            "layer": self._network.layer_index,
            "nominal_stride": self._network.nominal_stride,
            "weights_sha256": self.weights_sha256,
            "preprocessing": self.preprocessing,
            "input_size": list(size) if size else None,
            "library": self._network.library,
            **self._network.identity,
        }

    def _map_of(self, image: Image) -> Map:
        prepared = self._network.preprocessing.apply(image)[None].to(self._device)
        with torch.inference_mode():
            values = self._run(prepared)[0].to("cpu", torch.float32)
        largest = float(values.abs().max())
        if not largest <= _FLOAT16_MAX:
            raise TeacherError(
                f"teacher {self.name}, layer {self._network.layer_index}: a feature has magnitude "
                f"{largest}, and float16 holds at most {_FLOAT16_MAX:g}; choose another layer or "
                "other weights"
            )
        return values.to(torch.float16).contiguous().numpy()

    def _run(self, prepared: Tensor) -> Tensor:
        try:
            return self._layer(prepared)
        except Exception as error:
            # Networks of any library, which fail in their own ways.
            height, width = prepared.shape[2:]
            raise TeacherError(
                f"teacher {self.name} fails on an input of {width} x {height} px: "
                f"{first_line(error)}. If the size is the cause, set input_size to one that it "
                "accepts"
            ) from error


def _workers(device: torch.device) -> ThreadPoolExecutor:
    """Threads that run the network: one per core that torch may use, or one for an accelerator."""
    if device.type != "cpu":
        return ThreadPoolExecutor(1, thread_name_prefix="teacher")
    return ThreadPoolExecutor(
        torch.get_num_threads(),
        thread_name_prefix="teacher",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
