"""Once-for-All's weights, against what its own code computes; see `tests.golden.make_ofa_golden`."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import hwnas
from hwnas.errors import StoreError
from hwnas.networks.ofa import ANCESTORS
from hwnas.networks.supernet import Supernet
from hwnas.spaces import Architecture
from hwnas.spaces.resnet50 import ResNet50Space
from tests.golden import synthetic

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5  # 1e-4 is promised; made-up weights are kinder than real ones
MBV3, PROXYLESS = "ofa_mbv3_d234_e346_k357_w1.0", "ofa_proxyless_d234_e346_k357_w1.3"


@cache
def golden(name: str) -> tuple[dict[str, tuple[int, ...]], list[dict[str, list[Any]]], torch.Tensor]:
    """Shapes of a network's tensors by name, some of its subnets, and their logits."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        about = json.loads(str(file["about"]))
        logits = torch.from_numpy(file["logits"])
    return {key: tuple(shape) for key, shape in about["shapes"].items()}, about["subnets"], logits


@cache
def tensors_of(name: str) -> dict[str, torch.Tensor]:
    shapes, _, _ = golden(name)
    return {key: torch.from_numpy(synthetic.tensor(key, shape)) for key, shape in shapes.items()}


def state_of(name: str, spelling: Callable[[str], str] = str) -> dict[str, torch.Tensor]:
    """A made-up state dict with Once-for-All's names, in some spelling of them."""
    state = tensors_of(name)
    counts = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(0)
        for key in state
        if key.endswith("running_var")
    }
    return {spelling(key): value for key, value in (state | counts).items()}


def architecture(net: Supernet, subnet: dict[str, list[Any]]) -> Architecture:
    """The architecture that Once-for-All describes by lists."""
    if isinstance(net.space, ResNet50Space):
        return net.space.architecture(net.space.ofa_values(**subnet))
    values: dict[str, Any] = {f"stage{i}.depth": d for i, d in enumerate(subnet["d"][:5], 1)}
    blocks = [slot.name for slot in net.space.slots if slot.name.startswith("stage")]
    for slot, kernel, expand in zip(blocks, subnet["ks"], subnet["e"], strict=True):
        values |= {f"{slot}.kernel": kernel, f"{slot}.expand": expand}
    return net.space.architecture(values)


def assert_parity(net: Supernet, name: str) -> None:
    _, subnets, expected = golden(name)
    for subnet, logits in zip(subnets, expected, strict=True):
        arch = architecture(net, subnet)
        images = torch.from_numpy(synthetic.images())
        with torch.no_grad():
            for found in (net(images, arch)[0], net.extract(arch)(images)[0]):
                assert float((found - logits).abs().max() / logits.abs().max()) < TOLERANCE


@cache
def loaded(name: str) -> Supernet:
    """The network of a made-up checkpoint."""
    with TemporaryDirectory() as folder:
        torch.save({"state_dict": state_of(name)}, Path(folder) / "checkpoint.pth")
        return hwnas.load_ofa_checkpoint(Path(folder) / "checkpoint.pth", name)


@pytest.mark.parametrize("name", ANCESTORS)
def test_subnets_compute_what_the_original_computes(name: str) -> None:
    net = loaded(name)
    assert not net.training
    assert_parity(net, name)


@pytest.mark.parametrize("name", [MBV3, PROXYLESS])
def test_it_is_kept_in_our_own_format(name: str, tmp_path: Path) -> None:
    loaded(name).save(tmp_path)
    net = hwnas.load_supernet(tmp_path)
    assert net.checksum == loaded(name).checksum
    assert net.metadata == {"origin": name}
    assert_parity(net, name)


@pytest.mark.parametrize("name", [MBV3, PROXYLESS])
def test_its_subnets_are_exported(name: str, tmp_path: Path) -> None:
    """`export_onnx` itself compares with torch, which the parity above holds to the original."""
    _, subnets, _ = golden(name)
    network = loaded(name).extract(architecture(loaded(name), subnets[2]))
    hwnas.export_onnx(network, tmp_path / "net.onnx", input_shape=(1, *network.input_shape))


def shortest(name: str) -> str:
    return synthetic.legacy(name).replace(".mobile_inverted_conv.", ".conv.")


def longest(name: str) -> str:
    """Wrapped where the original does not wrap: the names of its elastic layers for all of them."""
    return re.sub(r"\b(conv|bn|linear)\.(weight|bias|running_\w+)$", r"\1.\1.\2", shortest(name))


@pytest.mark.parametrize(
    ("name", "spelling"),
    [*((name, synthetic.legacy) for name in ANCESTORS), (MBV3, shortest), (MBV3, longest)],
)
def test_every_spelling_of_names_is_read(name: str, spelling: Callable[[str], str], tmp_path: Path) -> None:
    respelled = state_of(name, spelling)
    assert respelled.keys() != state_of(name).keys()
    safetensors.torch.save_file(respelled, tmp_path / "respelled.safetensors")
    net = hwnas.load_ofa_checkpoint(tmp_path / "respelled.safetensors", name)
    expected = loaded(name).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in net.state_dict().items())


def test_files_of_old_torch_with_other_entries_are_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    state = {"epoch": 120, "best_acc": 75.3, "state_dict": state_of(PROXYLESS)}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert hwnas.load_ofa_checkpoint(path, PROXYLESS).checksum == loaded(PROXYLESS).checksum


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (["state_dict_ema"], "module."),  # DataParallel
        (["net"], "_orig_mod."),  # torch.compile
        (["model_state_dict"], "module.module."),
        (["state_dict"], "model."),  # Lightning
        (["model", "state_dict"], "net._orig_mod.module."),
        ([], "classifier.net."),  # an attribute that is called like a part of the network
    ],
)
def test_what_other_trainings_save_is_read(keys: list[str], prefix: str, tmp_path: Path) -> None:
    """Under other keys, in modules around the network, and with the counts of thop."""
    state: dict[str, Any] = state_of(PROXYLESS, lambda name: prefix + name)
    for module in ("", "first_conv.", "blocks.3.conv.depth_conv.conv.conv."):
        state |= {f"{prefix}{module}{count}": torch.zeros(1) for count in ("total_ops", "total_params")}
    for key in reversed(keys):
        state = {"epoch": 3, key: state}
    torch.save(state, tmp_path / "checkpoint.pth")
    net = hwnas.load_ofa_checkpoint(tmp_path / "checkpoint.pth", PROXYLESS)
    assert net.checksum == loaded(PROXYLESS).checksum
    if not keys:
        tensors = {name: tensor.clone() for name, tensor in state.items()}
        safetensors.torch.save_file(tensors, tmp_path / "checkpoint.safetensors")
        net = hwnas.load_ofa_checkpoint(tmp_path / "checkpoint.safetensors", PROXYLESS)
        assert net.checksum == loaded(PROXYLESS).checksum


@pytest.mark.parametrize("prefixes", [("model.", "teacher."), ("", "ema.module.")])
def test_a_file_of_several_networks_is_refused_and_the_remedy_works(
    prefixes: tuple[str, str], tmp_path: Path
) -> None:
    """One of them is a teacher, or a moving average of the other: which one is meant is not known."""
    source, target = tmp_path / "checkpoint.pth", tmp_path / "one.pth"
    state = state_of(PROXYLESS, lambda name: prefixes[0] + name)
    state |= {prefixes[1] + name: tensor * 2 for name, tensor in state_of(PROXYLESS).items()}
    torch.save({"state_dict": state}, source)
    with pytest.raises(StoreError, match="several networks, whose tensors begin with") as error:
        hwnas.load_ofa_checkpoint(source, PROXYLESS)
    assert all(repr(prefix) in str(error.value) for prefix in prefixes)
    program = str(error.value).partition("such as the first: ")[2]
    exec(program, {"torch": torch, "A": source, "B": target})
    assert hwnas.load_ofa_checkpoint(target, PROXYLESS).checksum == loaded(PROXYLESS).checksum


def test_resolutions_are_elastic(tmp_path: Path) -> None:
    torch.save(state_of(PROXYLESS), tmp_path / "checkpoint.pth")
    net = hwnas.load_ofa_checkpoint(tmp_path / "checkpoint.pth", PROXYLESS, resolutions=(128, 224))
    assert net.space.choices[0].name == "resolution"


# ---- errors --------------------------------------------------------------------------------------


def refused(state: Any, tmp_path: Path, match: str, name: str = PROXYLESS) -> None:
    torch.save(state, tmp_path / "checkpoint.pth")
    with pytest.raises(StoreError, match=match):
        hwnas.load_ofa_checkpoint(tmp_path / "checkpoint.pth", name)


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    state = state_of(PROXYLESS)
    del state["blocks.1.conv.depth_conv.conv.7to5_matrix"]
    del state["blocks.3.conv.inverted_bottleneck.bn.bn.running_mean"]
    state["extra.weight"] = torch.zeros(1)
    state["classifier.linear.bias"] = torch.zeros(10)
    refused(
        state,
        tmp_path,
        r"not a checkpoint of ofa_proxyless.*"
        r"missing \(2\): blocks\.1\.conv\.depth_conv\.conv\.7to5_matrix, "
        r"blocks\.3\.conv\.inverted_bottleneck\.bn\.bn\.running_mean; "
        r"unexpected \(1\): extra\.weight; "
        r"of another shape \(1\): classifier\.linear\.bias \(10,\), not \(1000,\)",
    )


def test_two_spellings_of_one_tensor_are_refused(tmp_path: Path) -> None:
    state = state_of(PROXYLESS)
    state["classifier.linear.linear.bias"] = state["classifier.linear.bias"]
    refused(state, tmp_path, r"twice \(1\): classifier\.linear\.linear\.bias")


def test_the_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    refused(state_of(PROXYLESS), tmp_path, r"missing \(\d+\): input_stem.*and \d+ more", "ofa_resnet50")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * torch.nan, "has values that are not finite"),
        (lambda x: x.half() / 0, "has values that are not finite"),
        (lambda x: x.long(), "is of int64, not of floating-point numbers"),
        (lambda x: x.to(torch.complex64), "is of complex64, not of floating-point numbers"),
        (lambda x: x.to_sparse(), "is stored as sparse_coo, not dense"),
    ],
)
def test_tensors_without_finite_real_numbers_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    state = state_of(PROXYLESS)
    state["classifier.linear.bias"] = change(state["classifier.linear.bias"])
    refused(state, tmp_path, rf"checkpoint\.pth: classifier\.linear\.bias {message}; fetch")


def test_the_remedy_for_what_is_more_than_tensors_works(tmp_path: Path) -> None:
    """It is the program in the message, here for arrays of NumPy."""
    arrays = {name: tensor.numpy() for name, tensor in state_of(PROXYLESS).items()}
    source, target = tmp_path / "checkpoint.pth", tmp_path / "tensors.pth"
    torch.save({"net": arrays, "epoch": np.float64(3)}, source)
    with pytest.raises(StoreError, match="more than tensors") as error:
        hwnas.load_ofa_checkpoint(source, PROXYLESS)
    program = str(error.value).partition("keep its tensors alone: ")[2]
    exec(program, {"torch": torch, "A": source, "B": target})
    assert hwnas.load_ofa_checkpoint(target, PROXYLESS).checksum == loaded(PROXYLESS).checksum


class Harm:
    """What a pickle could do."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("code in the file was run",))


def test_no_code_is_run(tmp_path: Path) -> None:
    refused({"state_dict": Harm()}, tmp_path, "holds more than tensors")
    path = tmp_path / "plain.pth"
    path.write_bytes(pickle.dumps(Harm(), protocol=2))
    with pytest.raises(StoreError, match="holds more than tensors"):
        hwnas.load_ofa_checkpoint(path, PROXYLESS)


@pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint.safetensors"])
@pytest.mark.parametrize("data", [b"", b"nonsense, but long enough to be read", b"PK\x03\x04 broken"])
def test_damaged_files_are_refused(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        hwnas.load_ofa_checkpoint(tmp_path / name, PROXYLESS)


def test_other_contents_names_and_paths_are_refused(tmp_path: Path) -> None:
    refused([torch.zeros(1)], tmp_path, "not a state dict")
    refused({"epoch": 3}, tmp_path, "not a state dict")
    with pytest.raises(StoreError, match="unknown network 'ofa_resnet' of Once-for-All; known: ofa_mbv3"):
        hwnas.load_ofa_checkpoint(tmp_path / "checkpoint.pth", "ofa_resnet")
    with pytest.raises(StoreError, match=r"nothing\.pth"):
        hwnas.load_ofa_checkpoint(tmp_path / "nothing.pth", PROXYLESS)
