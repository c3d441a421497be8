"""Building one feature layer of a timm model with chosen weights."""

import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers import efficientnet_lite0
from p2pkit.teachers.network import Preprocessing, TeacherNetwork, no_final_norm
from p2pkit.teachers.torchvision_shim import ensure_torchvision
from p2pkit.teachers.used_tensors import used_tensors
from p2pkit.teachers.weights import (
    PRETRAINING_HEADS,
    State,
    check_hub,
    choose_network,
    match_weights,
    read_weights,
    weights_sha256,
)

ensure_torchvision()
with warnings.catch_warnings():
    # timm imports names that torch has deprecated.
    warnings.simplefilter("ignore")
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.models._features import FeatureGetterNet

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""That timm looks for in a model on the hub."""
WITHOUT_NETWORK = (
    "When offline, give a local file (weights=/path/to/state_dict.pth or .safetensors), or 'random'"
)
LIBRARY = f"timm {timm.__version__}, torch {torch.__version__}"


class FeatureLayer(nn.Module):
    """One layer of a timm `features_only` network: images NCHW in, its map channels-last out.

    Args:
        network: made with a single entry in `out_indices`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        (output,) = self.network(images)
        return output if self.channels_last else output.permute(0, 2, 3, 1)


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Build the network on the CPU.

    Raises:
        TeacherError: the model or layer does not exist, an option that its family lacks, or weights
            that do not fit.
    """
    _check_name(name)
    whole, arguments = _outline(options, name)
    stages = _stages(whole)
    if not -len(stages) <= options.layer < len(stages):
        raise TeacherError(
            f"teacher {name} has no layer {options.layer}; expected {-len(stages)} to "
            f"{len(stages) - 1} (strides {[stage['reduction'] for stage in stages]})"
        )
    index = options.layer % len(stages)
    normed = _is_normed(whole, stages, index, options, name)
    features = _feature_network(options, name, {"out_indices": (index,), **arguments}, normed)
    layer = FeatureLayer(features).eval().requires_grad_(False)
    config = resolve_model_data_config(whole)
    size = options.input_size or (int(config["input_size"][2]), int(config["input_size"][1]))
    state, origin = _load(layer, whole, options, name, size)
    return TeacherNetwork(
        layer=layer,
        layer_index=index,
        channels=int(stages[index]["num_chs"]),
        nominal_stride=int(stages[index]["reduction"]),
        weights_sha256=weights_sha256(state),
        preprocessing=Preprocessing(
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=str(config["interpolation"]),
            input_size=options.input_size,
        ),
        library=LIBRARY,
        identity={"final_norm": True} if normed else {},
        weights_origin=origin,
    )


def normalisation(name: str) -> str:
    """A sentence with the mean and standard deviation of a model, and a tag that has others.

    Raises:
        TeacherError: the model does not exist.
    """
    _check_name(name)
    used: Any = timm.get_pretrained_cfg(name)
    known = timm.list_pretrained(f"{used.architecture}.*")
    configs: dict[str, Any] = {tag: timm.get_pretrained_cfg(tag) for tag in known}
    others = [tag for tag, x in configs.items() if (x.mean, x.std) != (used.mean, used.std)]
    way = "export the network with them (onnx:FILE)"
    if others:
        way = f"name a tag that has them, such as {others[0]}"
    return (
        f"images are normalised by the mean {list(used.mean)} and standard deviation "
        f"{list(used.std)} of timm's {used.architecture}.{used.tag}; if the weights expect others, "
        f"{way}"
    )


def _check_name(name: str) -> None:
    if timm.is_model(name):
        _check_tag(name)
        return
    near = near_names(name, [*timm.list_models(), *timm.list_pretrained()])
    advice = f"; similar names: {', '.join(near)}" if near else ""
    if "/" in name and not _VIT.match(name):
        advice = f"; for a model of transformers, or its folder, write hf:{name}"
    raise TeacherError(
        f"teacher {name!r}: timm {timm.__version__} has no such model{advice}. timm.list_models() "
        "lists all"
    )


_SIZES = {
    "ti": "tiny",
    "t": "tiny",
    "s": "small",
    "b": "base",
    "l": "large",
    "h": "huge",
    "g": "giant",
}
_VIT = re.compile(r"vit[-_]?(ti|[tsblhg])[-_/]?(\d+)", re.IGNORECASE)


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to five of the known names with most words in common, the nearest spelling first.

    The names of DINO's, DINOv2's and CLIP's own code (`dinov2_vits14`, `ViT-B/32`) are read as
    timm's words: `vit`, a size and `patch14`.
    """

    def spelled(found: re.Match[str]) -> str:
        return f"_vit_{_SIZES[found[1].lower()]}_patch{found[2]}_"

    wanted = _words(_VIT.sub(spelled, name).replace("_reg", "_reg4"))

    def rank(other: str) -> tuple[float, float, str]:
        words = _words(other)
        common = len(wanted & words) / len(wanted | words)
        return -common, -difflib.SequenceMatcher(None, name, other).ratio(), other

    spelling = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    alike = sorted((other for other in known if len(wanted & _words(other)) > 1), key=rank)
    return list(dict.fromkeys([*alike[:5], *spelling]))[:5]


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower())) - {""}


def _check_tag(name: str) -> None:
    """A tag after the dot says which of timm's weights are meant."""
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        model = name.partition(".")[0]
        raise TeacherError(
            f"teacher {name!r}: {first_line(error)} timm {timm.__version__} has "
            f"{', '.join(timm.list_pretrained(f'{model}.*')) or 'no weights of it'}"
        ) from error


def _outline(options: TeacherOptions, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The whole classifier without memory behind its tensors, and the arguments that built it."""
    arguments: dict[str, Any] = {}
    if options.output_stride is not None:
        arguments["output_stride"] = options.output_stride
    choices = [arguments]
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        # Some families adapt to any size, others are built for one size.
        choices.insert(0, {**arguments, "dynamic_img_size": True})
        if options.input_size is not None:
            choices.insert(1, {**arguments, "img_size": options.input_size[::-1]})
    reason: Exception | None = None
    for choice in choices:
        try:
            with torch.device("meta"):
                return timm.create_model(name, **choice), choice
        except (TypeError, AssertionError, NotImplementedError) as error:
            reason = error
    raise TeacherError(
        f"teacher {name} cannot be built with {choices[-1]}: {reason and first_line(reason)}"
    ) from reason


def _is_normed(
    whole: nn.Module,
    stages: list[dict[str, Any]],
    index: int,
    options: TeacherOptions,
    name: str,
) -> bool:
    """Whether the layer's tokens go through the final norm, which networks of one stride have."""
    norm = getattr(whole, "norm", None)
    known = isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity | nn.ModuleList)
    if known and hasattr(whole, "forward_intermediates") and _stride_is_one(stages):
        return options.norms(index, len(stages))
    if options.final_norm == "all":
        raise no_final_norm(name)
    return False


def _stride_is_one(stages: list[dict[str, Any]]) -> bool:
    return len({stage["reduction"] for stage in stages}) == 1


def _feature_network(
    options: TeacherOptions, name: str, arguments: dict[str, Any], normed: bool
) -> nn.Module:
    pretrained = options.weights == "timm" or (options.weights == "default" and not _is_lite0(name))
    if pretrained:
        _check_hub(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            if not normed:
                return timm.create_model(
                    name, features_only=True, pretrained=pretrained, **arguments
                )
            # timm's own wrapping cuts the final norm off.
            (index,) = arguments.pop("out_indices")
            whole = timm.create_model(name, pretrained=pretrained, **arguments)
            return FeatureGetterNet(whole, out_indices=(index,), norm=True)
    except Exception as error:
        # Downloads, damaged files and models without features each raise different errors.
        advice = f"timm's pretrained weights are downloaded. {WITHOUT_NETWORK}"
        raise TeacherError(
            f"teacher {name}: timm could not build its feature network ({first_line(error)}); "
            + (advice if pretrained else "choose a model that timm can build with features_only")
        ) from error


def _check_hub(name: str) -> None:
    """Raise where the weights must come from the hub, which cannot be reached."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id and not config.file:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
        check_hub(name, config.hf_hub_id, files, instead=WITHOUT_NETWORK)


def _stages(whole: nn.Module) -> list[dict[str, Any]]:
    info: Any = whole.feature_info
    return list(info if isinstance(info, list) else info.info)


def _names_in_whole(features: nn.Module, whole: nn.Module) -> dict[str, str]:
    """Name in the feature network → name in the whole model, for each tensor.

    timm either keeps the names, nests the model as `model.`, or lifts second-level modules to the
    top by joining two names with `_`.
    """
    known: dict[str, str] = {}
    for name in whole.state_dict():
        known |= {name: name, f"model.{name}": name, name.replace(".", "_", 1): name}
    return {name: known.get(name, name) for name in features.state_dict()}


def _load(
    layer: FeatureLayer, whole: nn.Module, options: TeacherOptions, name: str, size: tuple[int, int]
) -> tuple[State, str]:
    """Put the chosen weights into the feature network.

    Returns:
        What the map depends on, under the model's names; and which part of the file it was.
    """
    features = layer.network
    names, used = _names_in_whole(features, whole), set(features.state_dict())
    if isinstance(features, FeatureGetterNet):
        used = {key.removeprefix("network.") for key in used_tensors(layer, size)}
    from_package = options.weights == "default" and _is_lite0(name)
    origin = ""
    if from_package or options.has_weights_file:
        if from_package:
            path, optional = efficientnet_lite0.weights_file(), ()
            state = efficientnet_lite0.to_timm(read_weights(path))
        else:
            path = Path(options.weights)
            optional = (*_classifier_names(whole), *PRETRAINING_HEADS)
            wanted = sorted(names[key] for key in used)
            state, origin = choose_network(read_weights(path), wanted)
        required = {names[key] for key in used}
        matched = match_weights(
            state, whole.state_dict(), required=required, optional=optional, where=path.name
        )
        present: State = features.state_dict()
        features.load_state_dict(
            {key: matched.get(names[key], value) for key, value in present.items()}, strict=True
        )
    # As they are in the network: a file may hold the same numbers in another type.
    held: State = features.state_dict()
    return {names[key]: held[key] for key in used}, origin


def _is_lite0(name: str) -> bool:
    return name.split(".")[0] == efficientnet_lite0.MODEL_NAME


def _classifier_names(whole: nn.Module) -> tuple[str, ...]:
    config: Any = whole.pretrained_cfg
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
