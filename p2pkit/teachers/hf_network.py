"""Vision networks of Hugging Face's transformers, from a local folder or the hub.

`AutoBackbone` gives maps of any stage for the families that have it (DINOv2 with and without
registers, DINOv3, ConvNeXt, ResNet, Swin, BEiT, ...). Other models with patch tokens (ViT, DeiT,
MAE, the vision towers of CLIP and SigLIP, ...) give their last hidden state, without the tokens
that are not patches.
"""

import inspect
import json
import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import MissingDependencyError, TeacherError, first_line
from p2pkit.files import sha256_json, utf8_path
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.network import (
    Preprocessing,
    TeacherNetwork,
    check_range,
    first_map,
    no_final_norm,
)
from p2pkit.teachers.torchvision_shim import ensure_torchvision
from p2pkit.teachers.used_tensors import used_tensors
from p2pkit.teachers.weights import check_hub, listing, weights_sha256
from p2pkit.weight_files import check_weight_file, read_weight_file

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of resize filters, as image processors' configurations have them."""
_PREPARED = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "rescale_offset": False,
    "do_flip_channel_order": False,
}
"""What image processors must do, where their configurations say it."""
_PROBED_PX = 224
WITHOUT_NETWORK = "When offline, give a folder written by save_pretrained: hf:/path/to/folder"
SUPPORTED = (
    "Supported are families with an AutoBackbone, and models with square patches whose last "
    "tokens are the patches, row by row; if the size is the cause, set input_size"
)
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BACKBONE_NORMS = "hidden_states_norms."
"""Norms that a backbone adds to its stages; published weights lack them, and they begin neutral."""
_POST_NORM = "post_layernorm"
_NO_ARCHITECTURE = (
    "drop",
    "initializer",
    "mask",
    "decoder_",
    "loss",
    "out_features",
    "out_indices",
)
"""In names of settings that change no map."""


class BackboneLayer(nn.Module):
    """A backbone with one output stage: images NCHW in, its map channels-last out."""

    network: nn.Module

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

    network: nn.Module
    norm: str | None
    """A module of the network to apply to the tokens, which its hidden state lacks (CLIP's)."""

    def __init__(self, network: nn.Module, patch: int) -> None:
        super().__init__()
        self.network, self.patch, self.norm = network, patch, None
        self._known = frozenset(inspect.signature(network.forward).parameters)

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        rows, columns = (side // self.patch for side in images.shape[2:])
        arguments: dict[str, Any] = {}
        if "interpolate_pos_encoding" in self._known:
            arguments["interpolate_pos_encoding"] = True
        if "noise" in self._known:
            # MAE sorts its patches by noise and keeps the first; rising noise keeps their order.
            order = torch.arange(rows * columns, dtype=images.dtype, device=images.device)
            arguments["noise"] = order.expand(len(images), -1)
        tokens = self.network(images, **arguments).last_hidden_state
        tokens = tokens[:, tokens.shape[1] - rows * columns :].unflatten(1, (rows, columns))
        return self.network.get_submodule(self.norm)(tokens) if self.norm else tokens


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Build the network on the CPU. No code that comes with a model is ever run.

    Args:
        options: of the teacher; `weights` is `default` (the model's own) or `random`.
        name: of a model on the hub, or the path of a folder that `save_pretrained` wrote.

    Raises:
        MissingDependencyError: transformers is not installed.
        TeacherError: the model or layer does not exist, it gives no maps, or its weights are
            damaged or lack a tensor that the map depends on.
    """
    transformers = _transformers()
    if options.output_stride is not None or options.weights not in ("default", "random"):
        raise TeacherError(
            f"teacher hf:{name}: weights {options.weights!r} and output_stride "
            f"{options.output_stride}; expected 'default' or 'random', and no output stride. "
            "Weights come from the model's folder"
        )
    if not Path(name).exists():
        check_hub(f"hf:{name}", name, ["config.json"], instead=WITHOUT_NETWORK)
    config = _config(transformers, name)
    preprocessing = _preprocessing(name, options)
    layer, index, report = _layer(transformers, config, options, name)
    layer.eval().requires_grad_(False)
    size = options.input_size or _size(config)
    probe = first_map(layer, size, name=f"hf:{name}", supported=SUPPORTED)
    normed, used = _final_norm(layer, options, size, name)
    _check_report(report, layer, used, name)
    state = layer.state_dict()
    return TeacherNetwork(
        layer=layer,
        layer_index=index,
        channels=int(probe.shape[3]),
        nominal_stride=max(1, round(size[0] / probe.shape[2])),
        weights_sha256=weights_sha256({key: state[key] for key in used}),
        preprocessing=preprocessing,
        library=f"transformers {transformers.__version__}, torch {torch.__version__}",
        identity={"architecture": _architecture(transformers, config)}
        | ({"final_norm": True} if normed else {}),
    )


def _transformers() -> Any:
    ensure_torchvision()
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "hf teachers need transformers: pip install 'p2pkit[hf]'"
        ) from error
    return transformers


@contextmanager
def _quiet(transformers: Any) -> Generator[None]:
    """Without the library's bars and tables: what they say of weights is checked here."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _config(transformers: Any, name: str) -> Any:
    """The configuration of the network that sees images: of a pair such as CLIP, its vision."""
    _check_folder(name, ("config.json",))
    try:
        with _quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(name)
    except Exception as error:
        # Damaged files raise errors of any kind.
        raise _unreadable(name, error) from error
    return getattr(config, "vision_config", None) or config


def _unreadable(name: str, error: Exception) -> TeacherError:
    return TeacherError(
        f"teacher hf:{name} cannot be read: {first_line(error)}. Give a folder written by "
        "save_pretrained, or a name on the hub and a network connection"
    )


def _check_folder(name: str, files: Iterable[str]) -> list[Path]:
    """Those of the files that are in the model's folder; TeacherError where one cannot be read."""
    found = [path for path in (Path(name) / file for file in files) if path.is_file()]
    for path in found:
        check_weight_file(path, TeacherError)
    return found


def _weight_files(name: str) -> list[Path]:
    """The files that the library reads weights from, in a local folder."""
    for file in _WEIGHTS:
        if found := _check_folder(name, (file,)):
            return found
        for index in _check_folder(name, (f"{file}.index.json",)):
            shards = json.loads(index.read_text())["weight_map"].values()
            return _check_folder(name, sorted(set(shards)))
    return []


def _layer(
    transformers: Any, config: Any, options: TeacherOptions, name: str
) -> tuple[BackboneLayer | TokenLayer, int, dict[str, Any]]:
    """The layer, its number from the first, and what the library says of the weights."""
    stages = getattr(config, "stage_names", None)
    backbones = transformers.AutoBackbone._model_mapping
    if type(config) not in backbones or not stages:
        if options.layer not in (-1, 0):
            raise TeacherError(
                f"teacher hf:{name} has no layer {options.layer}; it has one layer, its last: -1"
            )
        patch = _patch(config, name)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0
        models = transformers.AutoModel._model_mapping
        if type(config) not in models:
            raise TeacherError(f"teacher hf:{name} is a {type(config).__name__}. {SUPPORTED}")
        network, report = _network(transformers, models[type(config)], config, options, name)
        return TokenLayer(network, patch), 0, report
    # Stage 0 is what goes into the first stage; not a layer itself.
    count = len(stages) - 1
    if not -count <= options.layer < count:
        raise TeacherError(
            f"teacher hf:{name} has no layer {options.layer}; expected {-count} to {count - 1}"
        )
    index = options.layer % count
    config.out_indices = [index + 1]
    if hasattr(config, "apply_layernorm"):
        config.apply_layernorm = options.norms(index, count)
    elif options.final_norm == "all":
        raise no_final_norm(f"hf:{name}")
    if hasattr(config, "reshape_hidden_states"):
        config.reshape_hidden_states = True
    # The class itself: AutoBackbone takes a folder's path for a name on the hub.
    network, report = _network(transformers, backbones[type(config)], config, options, name)
    return BackboneLayer(network), index, report


def _network(
    transformers: Any, kind: Any, config: Any, options: TeacherOptions, name: str
) -> tuple[nn.Module, dict[str, Any]]:
    if isinstance(kind, tuple):
        kind = kind[0]
    if options.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return kind(config), {}
    files = _weight_files(name)
    try:
        with _quiet(transformers), utf8_path(Path(name)) as readable:
            return kind.from_pretrained(
                str(readable),
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                # Listed by `_check_report`, where the map depends on them.
                ignore_mismatched_sizes=True,
            )
    except Exception as error:
        # The library describes its own reading; the file itself shows what is wrong.
        for path in files:
            read_weight_file(path, TeacherError)
        raise _unreadable(name, error) from error


def _final_norm(
    layer: BackboneLayer | TokenLayer, options: TeacherOptions, size: tuple[int, int], name: str
) -> tuple[bool, set[str]]:
    """Apply CLIP's final norm; whether the map is normed, and the tensors that it depends on."""
    used = used_tensors(layer, size)
    if isinstance(layer, BackboneLayer):
        config: Any = layer.network.config
        return bool(getattr(config, "apply_layernorm", False)), used
    names = [key for key, _ in layer.network.named_modules() if key.endswith(_POST_NORM)]
    if names and f"network.{names[0]}.weight" not in used:
        if options.final_norm == "none":
            return False, used
        layer.norm = names[0]
        return True, used_tensors(layer, size)
    if options.final_norm == "none":
        raise TeacherError(
            f"teacher hf:{name} applies its final norm itself; leave final_norm at 'last'"
        )
    return True, used


def _check_report(
    report: dict[str, Any], layer: BackboneLayer | TokenLayer, used: set[str], name: str
) -> None:
    """Compare what the library filled in at random, or left out, with what the map depends on.

    Raises:
        TeacherError: a tensor of the layers that the map depends on is missing, has another shape,
            or is left over, as of blocks that the configuration lacks.
    """
    wanted = {key.removeprefix("network.") for key in used}
    tops = {key.partition(".")[0] for key in wanted}
    prefixes = ("", "vision_model.", f"{getattr(layer.network, 'base_model_prefix', '')}.")
    missing = sorted(
        key
        for key in report.get("missing_keys", ())
        if (key in wanted and not key.startswith(_BACKBONE_NORMS)) or _is_of_block(key, tops)
    )
    shapes = [
        f"{key} {tuple(have)}, not {tuple(want)}"
        for key, have, want in sorted(report.get("mismatched_keys", ()))
        if key in wanted
    ]
    unexpected = sorted(
        key
        for key in report.get("unexpected_keys", ())
        if missing or any(key.removeprefix(prefix).partition(".")[0] in tops for prefix in prefixes)
    )
    if missing or shapes or unexpected:
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        faults = "; ".join(listing(word, names) for word, names in kinds.items() if names)
        raise TeacherError(
            f"teacher hf:{name}: its weights do not fit its config.json: {faults}. They belong to "
            "another network or another size"
        )


def _is_of_block(key: str, tops: set[str]) -> bool:
    """Whether a tensor is of a numbered block, used or behind the chosen layer."""
    top, *rest = key.split(".")
    return top in tops and any(part.isdigit() for part in rest)


def _architecture(transformers: Any, config: Any) -> str:
    """Digest of the settings that shape the computation, such as heads and activations."""
    common = transformers.PretrainedConfig().to_dict()
    settings = {
        key: value
        for key, value in config.to_dict().items()
        if key not in common and not any(part in key for part in _NO_ARCHITECTURE)
    }
    return sha256_json({"model_type": config.model_type, "settings": settings})


def _patch(config: Any, name: str) -> int:
    patch = getattr(config, "patch_size", None)
    if not isinstance(patch, int):
        raise TeacherError(
            f"teacher hf:{name} is a {type(config).__name__}: neither a backbone nor a model with "
            "square patches, so it gives no map"
        )
    return patch


def _size(config: Any) -> tuple[int, int]:
    """(width, height) of an input that the model takes (px)."""
    side = getattr(config, "image_size", None)
    if isinstance(side, list | tuple) and len(side) == 2:
        return int(side[1]), int(side[0])
    return (side, side) if isinstance(side, int) else (_PROBED_PX, _PROBED_PX)


def _preprocessing(name: str, options: TeacherOptions) -> Preprocessing:
    """Mean, standard deviation and filter, as the model's image processor has them."""
    from transformers.image_processing_base import ImageProcessingMixin

    _check_folder(name, ("preprocessor_config.json",))
    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
        mean, std = (tuple(map(float, found[key])) for key in ("image_mean", "image_std"))
        if (len(mean), len(std)) != (3, 3):
            raise ValueError(
                f"expected three numbers each in image_mean and image_std, found {mean} and {std}"
            )
        filter_ = 2 if found.get("resample") is None else int(found["resample"])
        if filter_ not in _FILTERS:
            raise ValueError(f"expected one of {_FILTERS} in resample, found {filter_}")
        other = {x: y for x, y in found.items() if x in _PREPARED and not _is_prepared(x, y)}
    except Exception as error:
        # Damaged files raise errors of any kind.
        raise TeacherError(
            f"teacher hf:{name}: its preprocessor_config.json with image_mean and image_std cannot "
            f"be read ({first_line(error)}); it says how images were prepared, which must not be "
            "guessed"
        ) from error
    if other:
        raise TeacherError(
            f"teacher hf:{name}: its preprocessor_config.json has {other}; expected {_PREPARED}, "
            "since images are RGB, scaled by 1/255, then normalised. State the same preparation "
            "by image_mean and image_std of RGB values from 0 to 1, in a copy of the folder; what "
            "they cannot state, such as BGR, belongs into an exported network (onnx:FILE)"
        )
    check_range(mean, std, f"teacher hf:{name}: its preprocessor_config.json")
    return Preprocessing(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=_FILTERS[filter_],
        input_size=options.input_size,
    )


def _is_prepared(setting: str, value: Any) -> bool:
    """Whether an image processor's setting is as in `_PREPARED`, or left to its default."""
    return value is None or math.isclose(value, _PREPARED[setting], rel_tol=1e-4)
