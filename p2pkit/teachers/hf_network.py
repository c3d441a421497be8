"""Vision backbones of Hugging Face's transformers, out of a local folder or the hub.

`AutoBackbone` gives maps of any stage for the families that have it (DINOv2 with and without
registers, DINOv3, ConvNeXt, ResNet, Swin, BEiT, ...). Other models with patch tokens (ViT, DeiT,
...) give their last hidden state, without the tokens that are no patches.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import MissingDependencyError, TeacherError
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.network import Preprocessing, TeacherNetwork
from p2pkit.teachers.torchvision_shim import ensure_torchvision
from p2pkit.teachers.weights import check_hub, weights_sha256

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of resize filters, as image processors' configurations have them."""
_PROBED_PX = 224
WITHOUT_NETWORK = "Without a network, give a folder written by save_pretrained: hf:/path/of/it"


class BackboneLayer(nn.Module):
    """A backbone with one output stage: images NCHW in, its map channels-last out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        return self.network(images).feature_maps[0].permute(0, 2, 3, 1)


class TokenLayer(nn.Module):
    """The last hidden state of a model with patch tokens, laid out as a map.

    Args:
        network: gives `last_hidden_state` [batch, tokens, channels], patches last, row by row.
        patch: side of a patch (px).
    """

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch = network, patch

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        rows, columns = (side // self.patch for side in images.shape[2:])
        tokens = self.network(images, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, tokens.shape[1] - rows * columns :].unflatten(1, (rows, columns))


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Build the network on the CPU. No code that comes with a model is ever run.

    Args:
        options: of the teacher; `weights` is `default` (the model's own) or `random`.
        name: of a model on the hub, or the path of a folder that `save_pretrained` wrote.

    Raises:
        MissingDependencyError: transformers is not installed.
        TeacherError: no such model or layer, or it is not one that gives maps.
    """
    transformers = _transformers()
    if options.output_stride is not None or options.weights not in ("default", "random"):
        raise TeacherError(
            f"teacher hf:{name}: weights {options.weights!r} and output_stride "
            f"{options.output_stride}; 'default' or 'random' and none are possible. Weights lie in "
            "the model's folder"
        )
    if not Path(name).exists():
        check_hub(f"hf:{name}", name, ["config.json"], instead=WITHOUT_NETWORK)
    config = _read(transformers.AutoConfig, name)
    layer, index = _layer(transformers, config, options, name)
    layer = layer.eval().requires_grad_(False)
    side = (options.input_size or (_side(config), 0))[0]
    with torch.inference_mode():
        probe = layer(torch.zeros(1, 3, side, side))
    return TeacherNetwork(
        layer=layer,
        layer_index=index,
        channels=int(probe.shape[3]),
        nominal_stride=max(1, round(side / probe.shape[2])),
        weights_sha256=weights_sha256(layer.state_dict()),
        preprocessing=_preprocessing(name, options),
        library=f"transformers {transformers.__version__}, torch {torch.__version__}",
    )


def _transformers() -> Any:
    ensure_torchvision()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "teachers of the kind hf need transformers: pip install 'p2pkit[hf]'"
        ) from error
    return transformers


def _read(kind: Any, name: str, **arguments: Any) -> Any:
    try:
        return kind.from_pretrained(name, **arguments)
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"teacher hf:{name} cannot be read: {error}. Give a folder written by save_pretrained, "
            "or a name on the hub and a network connection"
        ) from error


def _layer(
    transformers: Any, config: Any, options: TeacherOptions, name: str
) -> tuple[nn.Module, int]:
    """The layer, and its number from the first."""
    stages = getattr(config, "stage_names", None)
    backbones = transformers.AutoBackbone._model_mapping
    if type(config) not in backbones or not stages:
        if options.layer not in (-1, 0):
            raise TeacherError(f"teacher hf:{name} has one layer, its last: -1")
        network = _network(transformers.AutoModel, config, options, name)
        return TokenLayer(network, _patch(config, name)), 0
    # Stage 0 is what goes into the first stage; no layer of its own.
    count = len(stages) - 1
    if not -count <= options.layer < count:
        raise TeacherError(
            f"teacher hf:{name} has no layer {options.layer}; valid are {-count} to {count - 1}"
        )
    index = options.layer % count
    config.out_indices = [index + 1]
    # The class itself: AutoBackbone takes a folder's path for a name on the hub.
    return BackboneLayer(_network(backbones[type(config)], config, options, name)), index


def _network(kind: Any, config: Any, options: TeacherOptions, name: str) -> nn.Module:
    if options.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    return _read(kind, name, config=config)


def _patch(config: Any, name: str) -> int:
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int):
        raise TeacherError(
            f"teacher hf:{name} is a {type(config).__name__}: neither a backbone nor a model with "
            "square patches, so it gives no map"
        )
    return patch


def _side(config: Any) -> int:
    side = getattr(config, "image_size", None)
    return side if isinstance(side, int) else _PROBED_PX


def _preprocessing(name: str, options: TeacherOptions) -> Preprocessing:
    """Mean, standard deviation and filter, as the model's image processor has them."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
        mean, std = (tuple(map(float, found[key])) for key in ("image_mean", "image_std"))
    except (OSError, KeyError) as error:
        raise TeacherError(
            f"teacher hf:{name}: its preprocessor_config.json with image_mean and image_std cannot "
            f"be read ({error}); it says how images were prepared, which must not be guessed"
        ) from error
    return Preprocessing(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=_FILTERS.get(int(found.get("resample", 2)), "bilinear"),
        input_size=options.input_size,
    )
