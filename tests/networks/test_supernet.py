from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import ChecksumError, DataError, SpaceError, StoreError
from hwnas.networks.calibration import calibrate
from hwnas.networks.supernet import Supernet, load_supernet, refer_to_supernet
from hwnas.spaces import Choice, NetworkSpace, Operator, Slot
from hwnas.store import parse_json, read_json, write_json

from .small_spaces import SPACES, batches, lively_supernet

NETS = {name: lively_supernet(space) for name, space in SPACES.items()}


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(9, 40))
def test_supernet_equals_extract(name: str, seed: int, size: int) -> None:
    net = NETS[name]
    arch = net.space.sample(1, rng=seed)[0]
    statistics = calibrate(net, arch, batches(net.space, size))
    x = torch.randn(4, net.space.input_shape[0], size, size, generator=torch.Generator().manual_seed(seed))
    network = net.extract(arch, statistics)
    assert not network.training
    assert network.operators == tuple(net.space.operators(arch))
    with torch.no_grad():
        torch.testing.assert_close(net(x, arch, statistics), network(x), rtol=1e-4, atol=1e-4)


def test_extract_copies_and_stored_statistics_are_used_without_others() -> None:
    net = lively_supernet(SPACES["fused"])
    net.has_statistics = True
    arch = net.space.sample(1, rng=0)[0]
    x = torch.randn(2, 1, 16, 16)
    network = net.extract(arch)
    before = network(x)
    torch.testing.assert_close(net(x, arch), before, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.mul_(2)
    assert torch.equal(network(x), before)


def test_untrained_supernet_gives_sane_outputs() -> None:
    net = Supernet(SPACES["mbconv"]).train()
    with torch.no_grad():
        logits = net(torch.randn(16, 3, 32, 32), net.space.sample(1, rng=0)[0])
    assert logits.shape == (16, 7)
    assert 0.05 < float(logits.std()) < 20


def test_residual_blocks_start_as_identities() -> None:
    net = Supernet(SPACES["fused"])
    deep = {"stage1.depth": 2, "stage2.depth": 2}
    values = {choice.name: choice.values[0] for choice in net.space.choices}
    shallow_arch, deep_arch = net.space.architecture(values), net.space.architecture({**values, **deep})
    x = torch.randn(8, 1, 24, 24)
    assert torch.equal(net(x, shallow_arch), net(x, deep_arch))


def test_training_leaves_no_trace_in_any_evaluation() -> None:
    net = lively_supernet(SPACES["mbconv"])
    first, second = net.space.sample(2, rng=5)
    x = torch.randn(6, 3, 32, 32)
    statistics = calibrate(net, second, batches(net.space, 32))
    with torch.no_grad():
        before, checksum = net(x, second, statistics), net.checksum
        net.train()
        one = net(x, first)
        for arch in net.space.sample(4, rng=6):
            net(x, arch)
        assert torch.equal(net(x, first), one)
        net.eval()
        assert torch.equal(net(x, second, statistics), before)
    assert net.checksum == checksum


def test_training_mode_uses_the_batch_even_when_statistics_are_given() -> None:
    net = lively_supernet(SPACES["fused"])
    arch = net.space.sample(1, rng=0)[0]
    statistics = calibrate(net, arch, batches(net.space, 16))
    x = 3 * torch.randn(6, 1, 16, 16) + 1
    net.train()
    assert torch.equal(net(x, arch), net(x, arch, statistics))
    net.eval()
    assert not torch.allclose(net(x, arch, statistics), net.train()(x, arch))


def test_missing_statistics_warn_once() -> None:
    net = lively_supernet(SPACES["fused"])
    arch = net.space.sample(1, rng=0)[0]
    with pytest.warns(UserWarning, match="calibrate"):
        net(torch.zeros(1, 1, 16, 16), arch)
    net(torch.zeros(1, 1, 16, 16), arch)  # a second warning would be an error
    net.extract(arch)


def test_wrong_architectures_and_statistics_are_refused() -> None:
    net = NETS["fused"]
    first, second = net.space.sample(2, rng=0)
    statistics = calibrate(net, first, batches(net.space, 16))
    for use in (
        lambda: net(torch.zeros(1, 1, 16, 16), second, statistics),
        lambda: net.extract(second, statistics),
    ):
        with pytest.raises(SpaceError, match=f"{first.id}, not of {second.id}"):
            use()
    with pytest.raises(SpaceError, match="these architectures are of space"):
        calibrate(net, SPACES["mbconv"].sample(1, rng=0)[0], batches(net.space, 16))


def test_weights_follow_the_seed_alone() -> None:
    space = SPACES["fused"]
    before = torch.random.get_rng_state()
    assert (
        Supernet(space, rng=1).checksum == Supernet(space, rng=1).checksum != Supernet(space, rng=2).checksum
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("wrong", [{"stage1.depth": 1}, None])
def test_what_is_no_architecture_is_refused(wrong: Any) -> None:
    net = lively_supernet(SPACES["mbconv"]).eval()
    arch = net.space.sample(1, rng=0)[0]
    images = batches(net.space, 20)
    statistics = calibrate(net, arch, images)
    for call in (
        lambda: net(images[0], wrong, statistics),
        lambda: net(images[0], wrong),
        lambda: net.extract(wrong, statistics),
        lambda: calibrate(net, wrong, images),
    ):
        with pytest.raises(SpaceError, match=r"expected an architecture, got .*space\.architecture\(values"):
            call()


def test_what_is_no_images_of_the_space_is_refused() -> None:
    net = lively_supernet(SPACES["mbconv"]).eval()
    arch = net.space.sample(1, rng=0)[0]
    images = batches(net.space, 20)
    statistics = calibrate(net, arch, images)
    two_channels = torch.zeros(4, 2, 20, 20)
    for call in (
        lambda: net(two_channels, arch, statistics),
        lambda: calibrate(net, arch, [two_channels]),
        lambda: net(torch.zeros(3, 20, 20), arch, statistics),
        lambda: net(images[0].numpy(), arch, statistics),
    ):
        with pytest.raises(DataError, match=r"the images are .*takes tensors \(batch, 3, height, width\)"):
            call()


# ---- on disk -------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    net = lively_supernet(SPACES["mbconv"])
    net.metadata = {"mean": [0.5], "dataset": "noise"}
    net.save(tmp_path / "supernet")
    return tmp_path


def test_save_and_load(saved: Path) -> None:
    original = lively_supernet(SPACES["mbconv"])
    for path in (saved, saved / "supernet", str(saved)):
        net = load_supernet(path)
        assert net.checksum == original.checksum
        assert net.space == original.space
        assert net.metadata == {"mean": [0.5], "dataset": "noise"}
        assert not net.training
        assert not net.has_statistics
    arch = net.space.sample(1, rng=0)[0]
    statistics = calibrate(net, arch, batches(net.space, 20))
    x = torch.randn(2, 3, 20, 20)
    assert torch.equal(net(x, arch, statistics), original(x, arch, statistics))


def test_has_statistics_survives(tmp_path: Path) -> None:
    net = lively_supernet(SPACES["fused"])
    net.has_statistics = True
    net.save(tmp_path)
    loaded = load_supernet(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded(torch.zeros(1, 1, 16, 16), loaded.space.sample(1, rng=0)[0])


def test_a_changed_file_is_refused(saved: Path) -> None:
    weights = saved / "supernet" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ChecksumError, match=r"model\.safetensors .*restore it"):
        load_supernet(saved)
    weights.write_bytes(data[:100])
    with pytest.raises(ChecksumError, match=r"model\.safetensors"):
        load_supernet(saved)
    weights.unlink()
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load_supernet(saved)


def test_a_changed_definition_is_refused(saved: Path) -> None:
    path = saved / "supernet" / "supernet.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "space": {**data["space"], "classes": 8}}))
    with pytest.raises(ChecksumError, match=r"supernet\.json"):
        load_supernet(saved)


def test_weights_of_another_space_are_refused(saved: Path, tmp_path: Path) -> None:
    Supernet(SPACES["fused"]).save(tmp_path / "other")
    (saved / "supernet" / "model.safetensors").write_bytes(
        (tmp_path / "other" / "model.safetensors").read_bytes()
    )
    with pytest.raises(ChecksumError, match=r"model\.safetensors"):
        load_supernet(saved)


def test_another_schema_and_a_missing_supernet_are_refused(saved: Path, tmp_path: Path) -> None:
    path = saved / "supernet" / "supernet.json"
    write_json(path, {**parse_json(path, path.read_bytes()), "schema": 2})
    with pytest.raises(StoreError, match="schema 2"):
        load_supernet(saved)
    with pytest.raises(StoreError, match="no supernet in"):
        load_supernet(tmp_path / "nothing")


def test_an_interrupted_save_keeps_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        Supernet(SPACES["fused"]).save(saved / "supernet")
    monkeypatch.undo()
    assert load_supernet(saved).space == SPACES["mbconv"]


class OwnSpace(NetworkSpace):
    """A space that hwnas has never seen; its kernel is in none of its choices."""

    def __init__(self, widths: tuple[int, ...] = (4, 8), kernel: int = 3) -> None:
        self.slots = (Slot("conv", ("width",)), Slot("head", ("width",)))
        self.kernel = kernel
        super().__init__("own", [Choice("width", widths)])

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator:
        shape = (values["width"], 8, 8)
        if slot == "head":
            return Operator("classifier", shape, (3,), (), precision)
        attributes = (("k", self.kernel), ("s", 1), ("act", "relu"))
        return Operator("conv", (1, 8, 8), shape, attributes, precision)


def test_a_supernet_of_a_space_of_your_own_is_loaded_with_it(tmp_path: Path) -> None:
    net = Supernet(OwnSpace(), rng=3)
    net.save(tmp_path / "net")
    refer_to_supernet(tmp_path / "other", tmp_path / "net", net.checksum)
    for folder in ("net", "other"):
        loaded = load_supernet(tmp_path / folder, space=OwnSpace())
        assert loaded.checksum == net.checksum
        assert isinstance(loaded.space, OwnSpace)
    with pytest.raises(StoreError, match=r"is of 'own', .*give the one .*load_supernet\(…, space=…\)"):
        load_supernet(tmp_path / "net")
    with pytest.raises(
        SpaceError, match=rf"of the space {OwnSpace().id}, not of {OwnSpace((4, 6)).id}; give"
    ):
        load_supernet(tmp_path / "net", space=OwnSpace((4, 6)))
    with pytest.raises(ChecksumError, match=r"or make OwnSpace what it was when this was saved"):
        load_supernet(tmp_path / "net", space=OwnSpace(kernel=5))


def test_the_space_of_a_saved_supernet_may_be_given(saved: Path) -> None:
    assert load_supernet(saved, space=SPACES["mbconv"]).space is SPACES["mbconv"]
    with pytest.raises(SpaceError, match="give the one that it was made of"):
        load_supernet(saved, space=SPACES["fused"])


class SometimesResidual(NetworkSpace):
    """A convolution whose input is added in one of two architectures."""

    slots = (Slot("only", ("added",)),)

    def __init__(self) -> None:
        super().__init__("sometimes", [Choice("added", (0, 1))])

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator:
        attributes = (("k", 3), ("s", 1), ("act", "relu"), ("res", values["added"]))
        return Operator("conv", (1, 8, 8), (1, 8, 8), attributes, precision)


def test_what_is_added_does_not_depend_on_the_architecture() -> None:
    with pytest.raises(SpaceError, match="the sums and activations of only differ between architectures"):
        Supernet(SometimesResidual())


def test_kernel_matrices_are_kept(tmp_path: Path) -> None:
    net = lively_supernet(SPACES["mbconv"], kernel_transform=True)
    net.save(tmp_path)
    loaded = load_supernet(tmp_path)
    assert loaded.kernel_transform
    assert loaded.checksum == net.checksum
    arch = net.space.sample(1, rng=0)[0]
    statistics = calibrate(net, arch, batches(net.space, 20))
    x = torch.randn(2, 3, 20, 20)
    assert torch.equal(net(x, arch, statistics), loaded(x, arch, statistics))


def test_supernets_from_before_kernel_matrices_are_loaded(saved: Path) -> None:
    path = saved / "supernet" / "supernet.json"
    data = read_json(path)
    del data["kernel_transform"]
    write_json(path, data)
    assert not load_supernet(saved).kernel_transform


def every_slot_has_weights(space: NetworkSpace) -> bool:
    return {slot.name for slot in space.slots} == {name.replace("/", ".") for name in Supernet(space).slots}


def test_layers_are_found_by_the_names_of_the_space() -> None:
    assert all(every_slot_has_weights(space) for space in SPACES.values())
