"""Once-for-All's released supernets, read into ours (https://arxiv.org/abs/1908.09791).

`ANCESTORS` says which. Of a file of weights the names are Once-for-All's, in any spelling that it has had:
modules that wrap another of the same name may be written once or twice (``bn.`` and ``bn.bn.``), and the
convolutions of a mobile block may be called ``mobile_inverted_conv``. Here every spelling is brought to the
shortest one.

Subnets of the mobile ones, which Once-for-All describes by lists, are architectures as follows: `ks` and `e`
have a value for each elastic block that there can be, in order, skipped ones included (`stage1.layer1.kernel`
and `.expand`, …), and `d` has one for each stage (`stage1.depth`, …). For ResNet50 see `spaces.resnet50`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from hwnas.errors import StoreError, known_names
from hwnas.networks.supernet import Supernet
from hwnas.spaces import NetworkSpace, get_space
from hwnas.store import read_bytes

# Keys under which trainings save the tensors.
WRAPPERS = ("state_dict", "state_dict_ema", "model", "model_state_dict", "net")
# Tensors that no network computes with: torch's count of batches, thop's counts of operations and parameters.
IGNORED = ("num_batches_tracked", "total_ops", "total_params")
SHOWN = 20  # names in an error, of each sort
RENAMED = {  # patterns of the tensors of a layer here, and their names there
    r"^norm\.": "bn.",
    r"^kernel_(\d)to(\d)$": r"conv.\1to\2_matrix",
    r"^(reduce|expand)\.": r"fc.\1.",
}


@dataclass(frozen=True)
class Ancestor:
    """A released supernet: its space, the modules there by (slot, layer) here, and the slots static there."""

    space: str
    parameters: Mapping[str, Any]
    modules: Callable[[NetworkSpace], dict[tuple[str, str], str]]
    static: tuple[str, ...] = ()


def load_ofa_checkpoint(path: str | Path, name: str, resolutions: Sequence[int] = (224,)) -> Supernet:
    """Load a supernet that Once-for-All released, in eval mode.

    The file is torch's or safetensors; no code in it is run. Its tensors may lie under keys of `WRAPPERS`,
    such as ``{"state_dict": …}``, and may have one prefix in common, which modules around the network add:
    ``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` or another attribute of a
    Lightning module, or several of these. The counts of thop (`total_ops`, `total_params`) are ignored.

    Subnets compute what the original's compute, kernel transformation included. Without statistics of their
    own they normalise by the stored ones, as the original does; for their best accuracy `calibrate` them.
    `Supernet.save` writes hwnas's own format.

    Args:
        path: The file of weights.
        name: The name of the release, a key of `ANCESTORS`.
        resolutions: The resolutions that the space shall have, in pixels.

    Returns:
        The supernet.

    Raises:
        StoreError: If the name is unknown, or the file holds more than tensors, several networks, other names
            or shapes than the network has, or values that are not finite real numbers.
    """
    if name not in ANCESTORS:
        raise StoreError(f"unknown network {name!r} of Once-for-All; {known_names(name, ANCESTORS)}")
    ancestor = ANCESTORS[name]
    space = get_space(ancestor.space, **ancestor.parameters, resolutions=resolutions)
    net = Supernet(space, kernel_transform=True)
    names = _names(net, ancestor)
    tensors = _without_prefix(path, _tensors(path), {theirs.split(".")[0] for theirs in names.values()})
    found = _matched(f"{path} is not a checkpoint of {name}", net, names, tensors)
    for place, tensor in found.items():
        _check_values(path, names[place], tensor)
    net.load_state_dict(found)
    net.has_statistics = True
    net.metadata = {"origin": name}
    return net.eval()


# ---- names ---------------------------------------------------------------------------------------


def _mobile(space: NetworkSpace) -> dict[tuple[str, str], str]:
    parts = {
        "expand": "inverted_bottleneck",
        "depthwise": "depth_conv",
        "se": "depth_conv.se",
        "project": "point_linear",
    }
    blocks = [slot.name for slot in space.slots if slot.name not in ("stem", "head")]
    found = {("stem", "conv"): "first_conv", ("head", "classifier"): "classifier"}
    for i, slot in enumerate(blocks):
        found |= {(slot, layer): f"blocks.{i}.conv.{part}" for layer, part in parts.items()}
    return found


def _mobilenetv3(space: NetworkSpace) -> dict[tuple[str, str], str]:
    head = {("head", "expand"): "final_expand_layer", ("head", "mix"): "feature_mix_layer"}
    return _mobile(space) | head


def _proxyless(space: NetworkSpace) -> dict[tuple[str, str], str]:
    return _mobile(space) | {("head", "expand"): "feature_mix_layer"}


def _resnet50(space: NetworkSpace) -> dict[tuple[str, str], str]:
    parts = {"reduce": "conv1", "conv": "conv2", "expand": "conv3", "downsample": "downsample"}
    found = {
        ("stem", "conv"): "input_stem.0",
        ("stem.block", "conv"): "input_stem.1.conv",
        ("stem.pool", "conv"): "input_stem.2",
        ("head", "classifier"): "classifier",
    }
    blocks = [slot.name for slot in space.slots if slot.name.startswith("stage")]
    for i, slot in enumerate(blocks):
        found |= {(slot, layer): f"blocks.{i}.{part}" for layer, part in parts.items()}
    return found


def _names(net: Supernet, ancestor: Ancestor) -> dict[str, str]:
    """The name there, as Once-for-All now writes it, of each tensor here."""
    modules = ancestor.modules(net.space)
    found = {}
    for name in net.state_dict():
        _, slot, layer, tensor = name.split(".", 3)
        slot = slot.replace("/", ".")
        for pattern, theirs in RENAMED.items():
            tensor = re.sub(pattern, theirs, tensor)
        if slot not in ancestor.static:
            tensor = re.sub(r"^(conv|bn|linear)\.(?!\d)", r"\1.\1.", tensor)
        found[name] = f"{modules[slot, layer]}.{tensor}"
    return found


def _shortest(name: str) -> str:
    """A name of Once-for-All's in the shortest of its spellings; other names as they are."""
    name = name.replace(".mobile_inverted_conv.", ".conv.")
    return re.sub(r"\b(conv|bn|linear)(\.\1)+\b", r"\1", name)


# ---- tensors -------------------------------------------------------------------------------------


def _tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by the names that it gives them; no code in it is run."""
    data = read_bytes(path)
    try:
        if Path(path).suffix == ".safetensors":
            found: Any = safetensors.torch.load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # both readers raise whatever a damaged file makes them do
        raise StoreError(
            f"{path} is damaged, or holds more than tensors, which could run code; fetch it again or, if you "
            "trust it, keep its tensors alone: d = torch.load(A, weights_only=False); "
            f"d = next((d[k] for k in {WRAPPERS} if k in d), d); "
            "torch.save({k: torch.as_tensor(v) for k, v in d.items()}, B)"
        ) from None
    for _ in WRAPPERS:  # one may lie in another
        if isinstance(found, Mapping):
            found = next((found[key] for key in WRAPPERS if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(x, Tensor) for x in found.values()):
        raise StoreError(
            f"{path} is not a state dict: neither it, nor what it has under {' or '.join(WRAPPERS)}, is a "
            "mapping from names to tensors; save the network's state_dict() alone"
        )
    return {str(name): x for name, x in found.items()}


def _without_prefix(
    path: str | Path, tensors: Mapping[str, Tensor], modules: Collection[str]
) -> dict[str, Tensor]:
    """The tensors without what precedes the names of the network's outermost modules.

    StoreError if that differs between tensors: the file then holds several networks.
    """

    def prefix(name: str) -> str | None:
        parts = name.split(".")
        places = [i for i, part in enumerate(parts) if part in modules]
        return ".".join([*parts[: places[-1]], ""]) if places else None

    prefixes = {name: prefix(name) for name in tensors if not name.endswith(IGNORED)}
    first, *others = sorted({found for found in prefixes.values() if found is not None}) or [""]
    if others:
        raise StoreError(
            f"{path} holds several networks, whose tensors begin with {first!r}, "
            f"{', '.join(map(repr, others))}; keep one alone, such as the first: d = torch.load(A, "
            f"weights_only=True); d = next((d[k] for k in {WRAPPERS} if k in d), d); "
            f"torch.save({{k: v for k, v in d.items() if not k.startswith({tuple(others)})}}, B)"
        )
    return {name.removeprefix(first): x for name, x in tensors.items()}


def _check_values(path: str | Path, name: str, tensor: Tensor) -> None:
    """StoreError unless a tensor is a dense one of finite real numbers."""
    if tensor.layout != torch.strided:
        what = f"is stored as {str(tensor.layout).removeprefix('torch.')}, not dense"
    elif not tensor.is_floating_point():
        what = f"is of {str(tensor.dtype).removeprefix('torch.')}, not of floating-point numbers"
    elif not bool(tensor.float().isfinite().all()):
        what = "has values that are not finite"
    else:
        return
    raise StoreError(f"{path}: {name} {what}; fetch the file again, or save the weights anew as float32")


def _matched(
    problem: str, net: Supernet, names: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors by their names here, from `names` there; StoreError that lists what does not fit."""
    ours = net.state_dict()
    places = {_shortest(theirs): place for place, theirs in names.items()}
    found: dict[str, Tensor] = {}
    unexpected, twice, misshapen = [], [], []
    for name, tensor in tensors.items():
        place = places.get(_shortest(name))
        if place is None:
            if not name.endswith(IGNORED):
                unexpected.append(name)
        elif place in found:
            twice.append(name)
        else:
            found[place] = tensor
            if tensor.shape != ours[place].shape:
                misshapen.append(f"{name} {tuple(tensor.shape)}, not {tuple(ours[place].shape)}")
    missing = [theirs for place, theirs in names.items() if place not in found]
    kinds = {"missing": missing, "unexpected": unexpected, "twice": twice, "of another shape": misshapen}
    said = [f"{kind} ({len(listed)}): {_listed(listed)}" for kind, listed in kinds.items() if listed]
    if said:
        raise StoreError(f"{problem}; give the network that it is of. {'; '.join(said)}")
    return found


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


MOBILE_STATIC = ("stem", "first.layer1", "head")
ANCESTORS = {
    "ofa_mbv3_d234_e346_k357_w1.0": Ancestor("mobilenetv3", {"width": 1.0}, _mobilenetv3, MOBILE_STATIC),
    "ofa_mbv3_d234_e346_k357_w1.2": Ancestor("mobilenetv3", {"width": 1.2}, _mobilenetv3, MOBILE_STATIC),
    "ofa_proxyless_d234_e346_k357_w1.3": Ancestor("proxyless", {"width": 1.3}, _proxyless, MOBILE_STATIC),
    "ofa_resnet50": Ancestor("resnet50", {}, _resnet50),
}
