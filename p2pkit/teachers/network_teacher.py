"""A loaded network as a teacher: threads, batches, devices, half precision, fingerprint."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16
from torch import Tensor, nn

from p2pkit.errors import (
    BadMapError,
    ConfigError,
    TeacherError,
    TeacherMemoryError,
    first_line,
)
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.accelerator import Accelerator
from p2pkit.teachers.grid_probe import check_declared, check_response, measure_grid
from p2pkit.teachers.network import TeacherNetwork
from p2pkit.teachers.teacher import Image


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


Map = Float16[np.ndarray, "cells_v cells_u channels"]

BATCH_SIZE = 32
"""Images that an accelerator computes at once by default."""
COMPILED_SHAPES = 64
"""So many shapes of batches are compiled before torch computes further ones uncompiled."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FLOAT16_MAX = float(np.finfo(np.float16).max)


class NetworkTeacher:
    """A frozen network; see `Teacher` for its methods.

    On the CPU images run one at a time, each on one thread, several at once: torch's results
    change in the last bits with the number of threads that share a convolution and with the number
    of images that share one, and this way they depend on neither the machine's cores nor the batch.
    An accelerator gets whole batches, the next one while it computes.

    Args:
        name: the library's name of the model.
        network: the loaded layer.
        options: device, batch size, precision, and whether to compile.
    """

    def __init__(self, name: str, network: TeacherNetwork, options: TeacherOptions) -> None:
        self.name = name
        self.channels = network.channels
        self.weights_sha256 = network.weights_sha256
        self.weights_origin = network.weights_origin
        self.preprocessing: dict[str, Any] = network.preprocessing.to_json()
        self._network, self._options = network, options
        device = torch.device(options.device)
        self._on_cpu = device.type == "cpu"
        self.batch_size = 1 if self._on_cpu else options.batch_size or BATCH_SIZE
        self._device = torch.device("cpu") if network.on_host else device
        layer: Any = network.layer.to(self._device)
        if options.precision != "float32" and not self._on_cpu:
            # Tensor cores want the channels of images and of weights last.
            layer = layer.to(memory_format=torch.channels_last)
        self._layer: nn.Module = layer
        self._compute: Callable[[Tensor], Tensor] = self._layer
        if options.compile:
            self._compute = _compiled(self._layer)
        self._accelerator = Accelerator(self._device)
        self._grids: dict[tuple[int, int], FeatureGrid] = {}
        self._lock, self._launching = threading.Lock(), threading.Lock()
        self._workers = _workers(device)

    @property
    def accelerator(self) -> dict[str, Any] | None:
        """Card, precision and library versions; None on the CPU."""
        if self._on_cpu:
            return None
        return {
            "device": Accelerator(torch.device(self._options.device)).name,
            "precision": self._options.precision,
            "libraries": self._network.library + self._accelerator.libraries,
        }

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """Where the map's cells sit for recordings of this size (width, height in px)."""
        size = self._network.preprocessing.size_for(image_size)
        with self._lock:
            if size not in self._grids:
                # On one thread like the images: on a busy machine many are slower by far.
                with self._memory_for(1, size):
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
        """Feature maps of RGB images of one size; on a CPU each depends on its image alone."""
        sizes = {(image.shape[1], image.shape[0]) for image in images}
        if len(sizes) != 1:
            raise TeacherError(
                f"teacher {self.name}: expected one or more images of one size, found "
                f"{len(images)} images of sizes {sorted(sizes)}"
            )
        if self._on_cpu:
            return np.stack(list(self._workers.map(self._map_of, images, count())))
        firsts = range(0, len(images), self.batch_size)
        batches = [images[first : first + self.batch_size] for first in firsts]
        return np.concatenate(list(self._workers.map(self._maps_of, batches, firsts)))

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the maps' bytes, except the batch and `accelerator`."""
        size = self._network.preprocessing.input_size
        found: dict[str, Any] = {
            "name": self.name,
            "layer": self._network.layer_index,
            "nominal_stride": self._network.nominal_stride,
            "weights_sha256": self.weights_sha256,
            "preprocessing": self.preprocessing,
            "input_size": list(size) if size else None,
            "library": self._network.library,
            **self._network.identity,
        }
        if self._options.precision != "float32":
            found["precision"] = self._options.precision
        if self._options.compile:
            found["compile"] = True
        return found

    def _map_of(self, image: Image, number: int) -> Map:
        prepared = self._network.preprocessing.apply(image)[None].to(self._device)
        with torch.inference_mode():
            values = self._run(prepared)[0].to("cpu", torch.float32)
        self._check_storable(float(values.abs().max()), number)
        return values.to(torch.float16).contiguous().numpy()

    def _maps_of(self, images: Sequence[Image], first: int) -> np.ndarray:
        """Maps of one batch on an accelerator; `first` is the number of its first image."""
        prepare = self._network.preprocessing
        resized = [prepare.resize(image) for image in images]
        if self._options.compile:
            # Every number of images is compiled anew: a last batch of any size would be.
            resized += [resized[-1]] * (_rounded_up(len(images), self.batch_size) - len(images))
        size = prepare.size_for(images[0].shape[1::-1])
        with self._memory_for(len(images), size), torch.inference_mode():
            put = self._accelerator.put(resized)
            # One batch's activations at a time; the device works on while this thread waits below.
            with self._launching:
                values = self._run(prepare.normalise(put.float())).float()
                largest = values.abs().amax(dim=(1, 2, 3))
                get = self._accelerator.get([largest, values.to(torch.float16).contiguous()])
        magnitudes, maps = (found[: len(images)] for found in get())
        for number, magnitude in enumerate(magnitudes.tolist(), start=first):
            self._check_storable(magnitude, number)
        return maps

    def _check_storable(self, largest: float, image: int) -> None:
        if not largest <= _FLOAT16_MAX:
            raise BadMapError(
                f"teacher {self.name}, layer {self._network.layer_index}: a feature has magnitude "
                f"{largest}, and float16 holds at most {_FLOAT16_MAX:g}; choose another layer"
                f"{'' if self._options.precision != 'float16' else ', another precision'} or other "
                "weights",
                image,
            )

    @contextlib.contextmanager
    def _memory_for(self, images: int, size: tuple[int, int]) -> Generator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            # Its frames hold the activations, and whoever keeps the error would keep these.
            traceback.clear_frames(error.__traceback__)
            raise TeacherMemoryError(
                f"teacher {self.name}: {self._accelerator.name} has too little memory for "
                f"{images} image{'s' if images > 1 else ''} of {size[0]} x {size[1]} px at once: "
                "set a smaller --batch-size or --input-size, use --precision bfloat16, or stop "
                "other programs that use its memory"
            ) from None

    def _run(self, prepared: Tensor) -> Tensor:
        try:
            with self._autocast():
                return self._compute(prepared)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Networks of any library, which fail in their own ways.
            height, width = prepared.shape[2:]
            raise TeacherError(
                f"teacher {self.name} fails on an input of {width} x {height} px: "
                f"{first_line(error)}. If the size is the cause, set input_size to one that it "
                f"accepts{'' if len(prepared) == 1 else '; if the batch is, use --batch-size 1'}"
            ) from error

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        precision = self._options.precision
        if precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=_DTYPES[precision])


def _compiled(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """The layer compiled for each shape of a batch, so that no map depends on earlier shapes."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = COMPILED_SHAPES
    return torch.compile(layer, dynamic=False)


def _rounded_up(images: int, most: int) -> int:
    """The next power of two, and not more than `most`."""
    return min(1 << (images - 1).bit_length(), most)


def _workers(device: torch.device) -> ThreadPoolExecutor:
    """Threads that run the network: one per core that torch may use, or two for an accelerator.

    Of the two one prepares a batch while the other waits for its maps.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(2, thread_name_prefix="teacher")
    return ThreadPoolExecutor(
        torch.get_num_threads(),
        thread_name_prefix="teacher",
        initializer=torch.set_num_threads,
        initargs=(1,),
    )
