"""The examples run, with fewer steps and a device of known costs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import hwnas
from hwnas.testing import Rule
from tests.latency.fakes import FakeDevice
from tests.networks.small_spaces import batches, lively_supernet

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def own_space() -> dict[str, Any]:
    """The names of the example."""
    return runpy.run_path(str(EXAMPLES / "own_space.py"))


def test_a_space_of_your_own(own_space: dict[str, Any], tmp_path: Path) -> None:
    front = own_space["main"](4, 8, FakeDevice(), tmp_path)
    assert front.to_frame()["latency_ms"].is_monotonic_decreasing
    net = hwnas.load_supernet(tmp_path, space=own_space["PlainSpace"]())
    data = [hwnas.load_dataset("cluttered-digits", s, train=4000) for s in ("train", "validation")]
    best = front.evaluations[0]
    assert hwnas.AccuracyEvaluator(net, *data)([best.architecture])[0] == best.metrics["accuracy"]


def test_an_operator_of_your_own_is_built_exported_and_counted(
    own_space: dict[str, Any], tmp_path: Path
) -> None:
    """Elastic and static modules and the ONNX graph compute the same; MACs are those of the ops."""
    space = own_space["PlainSpace"]()
    net = lively_supernet(space)
    images = batches(space, 24)
    for arch in (space.largest(), space.smallest(), *space.sample(3, rng=0)):
        statistics = hwnas.calibrate(net, arch, images)
        network = net.extract(arch, statistics)
        with torch.no_grad():
            expected = net(images[0], arch, statistics)
            assert torch.allclose(network(images[0]), expected, atol=1e-4, rtol=1e-4)
        block = next(op for op in space.operators(arch) if op.kind == "residual")
        c, height, width = block.in_shape
        assert block.macs == 2 * c * c * block.integer("k") ** 2 * height * width
        assert hwnas.Operator.parse(block.key) == block
    hwnas.export_onnx(network, tmp_path / "net.onnx", (1, *network.input_shape))  # compares with torch


@pytest.mark.parametrize("rule", hwnas.testing.SPACE_RULES, ids=str)
def test_a_space_of_your_own_keeps_the_rules(own_space: dict[str, Any], rule: Rule) -> None:
    rule(own_space["PlainSpace"]())


def test_a_strategy_and_a_predictor_of_your_own() -> None:
    names = runpy.run_path(str(EXAMPLES / "own_plugins.py"))
    hwnas.testing.check_predictor(names["Line"]())
    hwnas.testing.check_strategy(names["HalfPredicted"])
    front = names["main"](evaluations=14)
    assert front.best().metrics["accuracy"] > 80


@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own parts
def test_a_model_of_your_own() -> None:
    main = runpy.run_path(str(EXAMPLES / "own_model.py"))["main"]
    front = main(steps=5, evaluations=3, device=FakeDevice()).to_frame()
    assert (front["latency_ms"] > 0).all()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    """Three primitives, three blocks and a space need more lines than the others."""
    assert len(path.read_text().splitlines()) <= (160 if path.stem == "two_inputs" else 80)


def test_networks_with_two_inputs(tmp_path: Path) -> None:
    """The example itself checks the supernet, the extracted network and the ONNX graph against each other."""
    example = runpy.run_path(str(EXAMPLES / "two_inputs.py"))
    table, archs, latency_ms = example["main"](FakeDevice(), tmp_path / "net.onnx")
    assert [row["length"] for row in table.calibration] == [8, 16]
    assert len(archs) == len(latency_ms) == 16
    space = example["Translator"]()
    smallest_arch, largest_arch = (
        space.architectures(g[None])[0] for g in (0 * space.cardinalities, space.cardinalities - 1)
    )
    assert latency_ms[archs.index(largest_arch)] > latency_ms[archs.index(smallest_arch)]
    decoders = [op for op in space.operators(largest_arch) if op.kind == "decode"]
    assert [op.macs for op in decoders] == [2 * 12 * 64 * 16 + 12 * 64 * 64] * 2


def test_a_supernet_that_is_trained_already() -> None:
    main = runpy.run_path(str(EXAMPLES / "search_supernet.py"))["main"]
    front = main(evaluations=14)
    assert front.best().metrics["accuracy"] > 80
    assert front.to_frame()["latency_ms"].is_monotonic_decreasing
