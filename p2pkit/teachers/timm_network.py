"""Building one feature layer of a timm model with chosen weights."""

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers import efficientnet_lite0
from p2pkit.teachers.network import Preprocessing, TeacherNetwork
from p2pkit.teachers.torchvision_shim import ensure_torchvision
from p2pkit.teachers.weights import (
    State,
    check_hub,
    match_weights,
    read_weights,
    strip_prefix,
    weights_sha256,
)

ensure_torchvision()
with warnings.catch_warnings():
    # timm imports names that torch has deprecated.
    warnings.simplefilter("ignore")
    import timm
    from timm.data.config import resolve_model_data_config

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""That timm looks for in a model on the hub."""
WITHOUT_NETWORK = (
    "Without a network, give a local file (weights=/path/to/state_dict.pth or .safetensors), or "
    "'random'"
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
        TeacherError: no such model or layer, an option that its family lacks, or weights that do
            not fit.
    """
    _check_name(name)
    whole, arguments = _outline(options, name)
    stages = _stages(whole)
    if not -len(stages) <= options.layer < len(stages):
        raise TeacherError(
            f"teacher {name} has no layer {options.layer}; valid are {-len(stages)} to "
            f"{len(stages) - 1} (strides {[stage['reduction'] for stage in stages]})"
        )
    index = options.layer % len(stages)
    features = _feature_network(options, name, {"out_indices": (index,), **arguments})
    state = _load(features, whole, options, name)
    config = resolve_model_data_config(whole)
    return TeacherNetwork(
        layer=FeatureLayer(features).eval().requires_grad_(False),
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
    )


def _check_name(name: str) -> None:
    if timm.is_model(name):
        _check_tag(name)
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.4)
    raise TeacherError(
        f"teacher {name!r}: timm {timm.__version__} has no such model"
        + (f"; near names: {', '.join(near)}" if near else "")
        + ". timm.list_models() lists all"
    )


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
        # Some families adapt to any size, others are told one size, once.
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
    raise TeacherError(f"teacher {name} cannot be built with {choices[-1]}: {reason}") from reason


def _feature_network(options: TeacherOptions, name: str, arguments: dict[str, Any]) -> nn.Module:
    pretrained = options.weights == "timm" or (options.weights == "default" and not _is_lite0(name))
    if pretrained:
        _check_hub(name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return timm.create_model(name, features_only=True, pretrained=pretrained, **arguments)
    except (OSError, RuntimeError) as error:
        advice = f"timm's pretrained weights come over the network. {WITHOUT_NETWORK}"
        raise TeacherError(
            f"teacher {name}: timm could not build its feature network ({error}); "
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


def _load(features: nn.Module, whole: nn.Module, options: TeacherOptions, name: str) -> State:
    """Put the chosen weights into the feature network; returns them under the model's names."""
    present: State = features.state_dict()
    names = _names_in_whole(features, whole)
    from_package = options.weights == "default" and _is_lite0(name)
    if options.weights in ("random", "timm", "default") and not from_package:
        return {names[key]: value for key, value in present.items()}
    if from_package:
        path = efficientnet_lite0.weights_file()
        state, optional = efficientnet_lite0.to_timm(read_weights(path)), ()
    else:
        path = Path(options.weights)
        state = strip_prefix(read_weights(path), sorted(names.values()))
        optional = _classifier_names(whole)
    matched = match_weights(
        state, whole.state_dict(), required=set(names.values()), optional=optional, where=path.name
    )
    features.load_state_dict(
        {key: matched.get(names[key], value) for key, value in present.items()}, strict=True
    )
    return matched


def _is_lite0(name: str) -> bool:
    return name.split(".")[0] == efficientnet_lite0.MODEL_NAME


def _classifier_names(whole: nn.Module) -> tuple[str, ...]:
    config: Any = whole.pretrained_cfg
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
