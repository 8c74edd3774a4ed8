"""Networks with two inputs and operators that read several values: supernet and static network."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import hwnas
from hwnas.config import Training
from hwnas.errors import DataError, SpaceError
from hwnas.networks.blocks import folded_weights, unfolded_network
from hwnas.networks.drop import Drop
from hwnas.spaces import Choice, NetworkSpace, Operator, PrecisionSpace, Slot
from hwnas.spaces.fixed import FixedSpace
from hwnas.training.channels import sort_channels
from hwnas.training.finetune import inherited
from hwnas.training.loop import train
from tests.networks.small_spaces import lively_supernet
from tests.spaces.two_inputs import TwoInputs, token_batch

SPACE = TwoInputs()
NET = lively_supernet(SPACE)


def test_supernet_equals_extract() -> None:
    for arch in SPACE.enumerate():
        batch = token_batch(arch.values["length"])
        statistics = hwnas.calibrate(NET, arch, [batch, (token_batch(arch.values["length"], 4, 1), None)])
        network = NET.extract(arch, statistics)
        assert network.network == SPACE.network(arch)
        with torch.no_grad():
            expected = NET(batch, arch, statistics)
            torch.testing.assert_close(network(batch), expected)
            assert torch.equal(network(*batch.values()), network(batch))
            assert torch.equal(NET(tuple(batch.values()), arch, statistics), expected)
            again = unfolded_network(network.network, folded_weights(network))
            torch.testing.assert_close(again(batch), expected, rtol=1e-4, atol=1e-4)


def test_every_input_and_the_skipped_block_matter() -> None:
    arch = SPACE.architecture({**SPACE.sample(1, 0)[0].values, "depth": 2, "decoder2.kernel": 3})
    batch = token_batch(arch.values["length"])
    network = NET.extract(arch, hwnas.calibrate(NET, arch, [batch]))
    for name, other in token_batch(arch.values["length"], seed=9).items():
        assert not torch.allclose(network({**batch, name: other}), network(batch))
    shallow = SPACE.architecture({**arch.values, "depth": 1})
    assert [len(SPACE.network(a).operators) for a in (arch, shallow)] == [5, 4]


def test_gradients_reach_what_is_used() -> None:
    net = copy.deepcopy(NET).train()
    shallow = SPACE.architecture({**SPACE.sample(1, 0)[0].values, "depth": 1})
    drop = Drop(0.5, 0.5, torch.Generator().manual_seed(0))
    net(token_batch(shallow.values["length"]), shallow, None, drop).square().sum().backward()
    reached = {
        name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert reached == {"embed", "encoder", "decoder1", "head"}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 6), r"has 2 inputs \(ids, mask\), got 1"),
        ({"ids": torch.zeros(2, 6).long()}, "inputs of the network are ids, mask, got ids"),
        (token_batch(6) | {"mask": torch.zeros(6, 6, 1)}, r"'mask' is of shape \(6, 6, 1\); .*\(batch, 6\)"),
        (token_batch(6) | {"mask": None}, "'mask' is a NoneType"),
        (token_batch(6) | {"ids": torch.zeros(6, 6)}, "'ids' is torch.float32; this space takes int64"),
    ],
)
def test_inputs_that_are_not_those_declared_are_refused(inputs: Any, message: str) -> None:
    arch = SPACE.architecture({**SPACE.sample(1, 0)[0].values, "length": 6})
    statistics = hwnas.calibrate(NET, arch, [token_batch(6)])
    with pytest.raises(DataError, match=message):
        NET(inputs, arch, statistics)


def test_a_space_of_no_images_says_so() -> None:
    (arch,) = SPACE.sample(1, 0)
    assert SPACE.input_size(arch) == arch.values["length"]
    for call in (lambda: SPACE.input_shape, lambda: SPACE.resolution(arch)):
        with pytest.raises(SpaceError, match=r"take no images: embed\S+ reads an input of shape \(\d,\)"):
            call()


def test_one_architecture_and_its_weights_are_taken_over() -> None:
    for arch in SPACE.sample(4, 1):
        batch = token_batch(arch.values["length"])
        own = inherited(NET, arch)
        (only,) = own.space.sample(1, 0)
        assert isinstance(own.space, FixedSpace)
        assert own.space.network(only) == SPACE.network(arch)
        assert own.space.input_size(only) == SPACE.input_size(arch)
        expected = NET.extract(arch, hwnas.calibrate(NET, arch, [batch]))(batch)
        found = own.extract(only, hwnas.calibrate(own, only, [batch]))(batch)
        torch.testing.assert_close(found, expected)


def test_the_precision_is_one_more_choice() -> None:
    space = PrecisionSpace(SPACE, ("fp32", "int8"))
    (arch,) = space.sample(1, 0)
    inner = SPACE.architecture({name: v for name, v in arch.values.items() if name != "precision"})
    assert space.size_name == "length"
    assert space.network(arch).with_precision("fp32") == SPACE.network(inner)


def test_sorting_channels_leaves_the_largest_subnet_as_it_is() -> None:
    """Blocks that read several values, or add them, share their channels: only inner ones are sorted."""
    net = copy.deepcopy(NET)
    arch = SPACE.architectures((SPACE.cardinalities - 1)[None])[0]
    batch = token_batch(arch.values["length"])
    before = net.extract(arch, hwnas.calibrate(net, arch, [batch]))(batch)
    sort_channels(net)
    after = net.extract(arch, hwnas.calibrate(net, arch, [batch]))(batch)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_bytes_of_activations_include_results_that_wait() -> None:
    archs = SPACE.sample(5, 0)
    for arch, held in zip(archs, SPACE.peak_activation_bytes(archs), strict=True):
        network = SPACE.network(arch)
        assert held == network.activation_bytes >= max(op.activation_bytes for op in network.operators)


class Wrong(NetworkSpace):
    """Two convolutions whose slots are connected as a test says."""

    def __init__(self, *slots: Slot, skipped: str = "") -> None:
        self.slots = slots
        self.skipped = skipped
        super().__init__("wrong", [Choice("width", (4,))])

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        attributes = (("k", 1), ("s", 1), ("act", "relu"))
        return None if slot == self.skipped else Operator("conv", (4, 6, 6), (4, 6, 6), attributes, precision)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            Wrong(Slot("first", ()), Slot("second", (), ("frist",))),
            r"slot 'second' reads 'frist', .* nor an input \(input\); declare inputs by Wrong.inputs",
        ),
        (Wrong(Slot("first", (), ("second",)), Slot("second", ())), "slot 'first' reads 'second'"),
        (Wrong(Slot("input", ())), "slot 'input' has the name of an input"),
        (Wrong(Slot("first", ()), Slot("second", (), ("input",))), "no operator reads the result of"),
        (
            Wrong(Slot("first", ()), Slot("second", (), ("input",)), skipped="second"),
            "the last slot, second, is skipped",
        ),
    ],
)
def test_slots_that_make_no_network_are_refused(space: Wrong, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space.network(space.sample(1, 0)[0])


def test_a_chain_may_name_its_connections() -> None:
    named = Wrong(Slot("first", (), ("input",)), Slot("second", (), ("first",)))
    plain = Wrong(Slot("first", ()), Slot("second", ()))
    networks = [space.network(space.sample(1, 0)[0]) for space in (named, plain)]
    assert networks[0] == networks[1]
    assert networks[0].is_chain
    assert dataclasses.replace(networks[0]) == networks[0]


def test_what_trains_and_judges_on_images_says_so(tmp_path: Path) -> None:
    data = hwnas.load_dataset("cluttered-digits", "validation", validation=40)
    (arch,) = SPACE.sample(1, 0)
    for use in (
        lambda: hwnas.AccuracyEvaluator(NET, data, data)([arch]),
        lambda: train(
            copy.deepcopy(NET), data, data, Training(steps=2, batch_size=8, warmup_steps=0), tmp_path
        ),
    ):
        with pytest.raises(SpaceError, match="take no images"):
            use()
