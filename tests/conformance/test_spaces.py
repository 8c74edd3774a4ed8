"""Every named space keeps the published rules. A newcomer joins by its line in SPACES.

Spaces are taken at two small resolutions, which divide unevenly; `SMALL` has what else makes one quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwnas
from hwnas.networks.blocks import folded_weights
from hwnas.ops.onnx import onnx_model
from hwnas.spaces import SPACES, NetworkSpace, Operator, get_space, space_of
from hwnas.testing import SPACE_RULES, Rule
from hwnas.testing.networks import perturbed, random_batches
from hwnas.testing.spaces import supernet
from tests.spaces.two_inputs import TwoInputs

SMALL: dict[str, dict[str, Any]] = {
    "mobilenetv3": {"width": 0.5},
    "proxyless": {"width": 0.5},
    "resnet50": {"widths": (0.125, 0.25), "ratios": (0.25, 0.5)},
}
SIZES = (40, 56)


def small_space(name: str, **parameters: Any) -> NetworkSpace:
    return get_space(name, **{"classes": 7, "resolutions": SIZES, **SMALL.get(name, {}), **parameters})


FOUND = {name: small_space(name) for name in SPACES}
each = pytest.mark.parametrize("name", SPACES)


@pytest.mark.parametrize("rule", SPACE_RULES, ids=str)
@each
def test_rule(name: str, rule: Rule) -> None:
    profiled = rule.name == "is_profiled"  # one resolution is quicker to calibrate
    rule(small_space(name, resolutions=(32,)) if profiled else FOUND[name])


@pytest.mark.parametrize("rule", SPACE_RULES, ids=str)
def test_rule_of_a_graph_with_two_inputs(rule: Rule) -> None:
    rule(TwoInputs())


@each
def test_the_whole_space_has_a_definition_and_keys(name: str) -> None:
    space = get_space(name)
    assert space_of(space.definition) == space
    assert get_space(name, classes=10) != space  # the same choices, other networks
    for operator in space.all_operators():
        assert Operator.parse(operator.key) == operator


@each
def test_resolution_is_elastic(name: str) -> None:
    space = FOUND[name]
    assert space.input_shape == (3, SIZES[1], SIZES[1])
    assert space.choices[space.index("resolution")].values == SIZES
    assert small_space(name, resolutions=(64,)).size * 2 == space.size
    assert space.operators(space.sample(1, 0)[0])[-1].out_shape == (7,)


@each
@pytest.mark.parametrize("kernel_transform", [False, True])
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.integers(33, 60))
def test_supernet_equals_extract_at_any_size(name: str, kernel_transform: bool, seed: int, size: int) -> None:
    net = supernet(FOUND[name], kernel_transform)
    arch = net.space.sample(1, rng=seed)[0]
    data = random_batches(net.space, size)
    statistics = hwnas.calibrate(net, arch, data)
    with torch.no_grad():
        expected = net(data[0], arch, statistics)
        found = net.extract(arch, statistics)(data[0])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@each
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own parts
def test_the_graph_equals_what_torchs_exporter_makes(name: str, tmp_path: Path) -> None:
    network = perturbed(hwnas.build(FOUND[name], FOUND[name].sample(1, rng=3)[0]))
    x = torch.randn(1, *network.input_shape, generator=torch.Generator().manual_seed(3))
    path = tmp_path / "exported.onnx"
    torch.onnx.export(
        network,
        (x,),
        path,
        input_names=["input"],
        output_names=["logits"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    graph = onnx_model(network.operators, folded_weights(network)).SerializeToString()
    exported, found = (
        onnxruntime.InferenceSession(data).run(["logits"], {"input": x.numpy()})[0]
        for data in (path.read_bytes(), graph)
    )
    np.testing.assert_allclose(found, exported, rtol=1e-4, atol=1e-4 * np.abs(exported).max())
