"""Images to an accelerator and maps back; on CUDA from page-locked memory, while it computes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from p2pkit.teachers.teacher import Image


class Accelerator:
    """The way to a device and back; on CUDA each direction has its own stream.

    Nothing here waits for the device but what `get` returns, so a thread that prepares the next
    batch meanwhile keeps the device busy.

    Args:
        device: as torch knows it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if device.type == "cuda":
            self._streams = (torch.cuda.Stream(device), torch.cuda.Stream(device))

    @property
    def name(self) -> str:
        """The card's name on CUDA, else what torch calls the device."""
        if self._device.type == "cuda" and torch.cuda.is_available():
            return torch.cuda.get_device_name(self._device)
        return self._device.type

    @property
    def libraries(self) -> str:
        """Versions that decide a map's last bits besides torch's own; empty elsewhere than CUDA."""
        if self._device.type != "cuda":
            return ""
        return f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"

    def put(self, images: Sequence[Image]) -> UInt8[Tensor, "batch height width 3"]:
        """Images of one size on the device, usable by what is computed there from now on."""
        locked = self._streams is not None
        shape = (len(images), *images[0].shape)
        stacked = torch.empty(shape, dtype=torch.uint8, pin_memory=locked)
        np.stack(images, out=stacked.numpy())
        if self._streams is None:
            return stacked.to(self._device)
        with torch.cuda.stream(self._streams[0]):
            there = stacked.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._streams[0])
        there.record_stream(computing)
        return there

    def get(self, tensors: Sequence[Tensor]) -> Callable[[], list[np.ndarray]]:
        """Begin to copy tensors from the device; a call of the result waits for the arrays."""
        if self._streams is None:
            here = [tensor.cpu() for tensor in tensors]
            return lambda: [tensor.numpy() for tensor in here]
        back, done = self._streams[1], torch.cuda.Event()
        back.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(back):
            here = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for tensor in tensors
            ]
            for tensor in tensors:
                tensor.record_stream(back)
            done.record(back)

        def wait() -> list[np.ndarray]:
            done.synchronize()
            # Copied: page-locked memory is scarce, and a shard's maps are kept for a while.
            return [tensor.numpy().copy() for tensor in here]

        return wait
