from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest

from hwnas.errors import DeviceError, SpaceError, TableError
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from hwnas.spaces import get_space
from tests.latency.fakes import CALL_NS, FakeDevice, small_space, weight_cost

SPACE = small_space()


def weights(operator) -> int:
    from hwnas.ops.onnx import weight_shapes

    return sum(int(np.prod(shape)) for shape in weight_shapes(operator).values())


def test_additive_costs_are_found_exactly():
    """Of a device whose networks cost a call and a sum of operators, table and calibration hold just that."""
    table = profile(SPACE, FakeDevice(), rounds=4, rng=0)
    assert set(table.operators) == {op.key for op in SPACE.all_operators()}
    empty = 2e-5  # the empty call has two weights
    for operator in SPACE.all_operators():
        expected = weights(operator) * 1e-5
        assert table.operators[operator.key].ms == pytest.approx(expected, abs=1.1 * empty, rel=1e-3)
    archs = SPACE.sample(100, 1)
    truth = [CALL_NS * 1e-6 + sum(weights(op) for op in SPACE.operators(arch)) * 1e-5 for arch in archs]
    np.testing.assert_allclose(table.latency_ms(archs), truth, rtol=2e-3)
    for row in table.calibration:
        assert row["slope"] == pytest.approx(1, rel=0.01)
        assert row["held_out"]["mape"] < 0.1
        assert row["macs_baseline"]["mape"] > row["held_out"]["mape"]
        assert row["repeatability_cv"] == 0
        assert (row["networks"], row["held_out"]["networks"]) == (48, 12)
    assert [row["resolution"] for row in table.calibration] == [8, 12]
    assert table.protocol["statistic"] == "exact"
    assert table.runtime["precisions"] == ["fp32"]
    assert table.verdict().startswith("good")


def test_each_operator_is_visited_amid_the_others_of_a_network():
    device = FakeDevice()
    profile(SPACE, device, rounds=3, calibration_networks=3, held_out_networks=2, rng=0)
    n = len(SPACE.all_operators())
    operators, networks = (
        [visit for plan in plans for visit in plan.visits]
        for plans in (device.plans[::2], device.plans[1::2])
    )
    counts = np.bincount([model for visit in operators for model in visit], minlength=2 * n + 1)
    assert (counts[:n] >= 3).all()
    assert (counts[n : 2 * n] == counts[:n]).all()
    assert min(len(visit) for visit in operators) >= 4
    assert all(len(visit) == 1 for visit in networks)
    assert np.bincount(np.ravel(networks)).tolist() == [3] * 10


def test_profile_repeats_with_its_seed():
    one, two = (profile(SPACE, FakeDevice(), rounds=2, rng=3) for _ in range(2))
    for table in (one, two):
        table.protocol.pop("seconds")
    assert one == two


def test_progress_is_told():
    seen = []
    profile(
        SPACE, FakeDevice(), rounds=2, progress=lambda done, total, text: seen.append((done, total, text))
    )
    assert seen
    assert all(0 < done <= total and text for done, total, text in seen)


def test_a_space_of_few_architectures_is_shared_out():
    stage = {"block": "fused", "width": [8], "depth": [1], "kernel": [3, 5, 7], "expand": [1, 2], "stride": 2}
    space = small_space(resolutions=(8,), stages=[stage])
    (row,) = profile(space, FakeDevice(), rounds=2).calibration
    assert (row["networks"], row["held_out"]["networks"]) == (3, 3)


def test_a_single_architecture_is_calibrated_on_and_not_judged():
    stage = {"block": "fused", "width": [8], "depth": [1], "kernel": [3], "expand": [2], "stride": 2}
    space = small_space(resolutions=(8,), stages=[stage])
    assert space.size == 1
    table = profile(space, FakeDevice(), rounds=2)
    (row,) = table.calibration
    assert row["networks"] == 1
    assert "held_out" not in row
    assert table.verdict().startswith("not judged")
    (arch,) = space.enumerate()
    cost_ns = CALL_NS + sum(10 * weights(operator) for operator in space.operators(arch))
    assert table.latency_ms([arch]) == pytest.approx(cost_ns / 1e6)
    both = profile(small_space(stages=[stage]), FakeDevice(), rounds=2)  # one at each of two resolutions
    assert [row["networks"] for row in both.calibration] == [1, 1]


def test_operators_that_cost_nothing_are_refused():
    with pytest.raises(DeviceError, match="cannot be told from an empty call"):
        profile(SPACE, FakeDevice(cost=lambda model: 0), rounds=2)


def test_impossible_requests_are_refused():
    with pytest.raises(DeviceError, match="unknown device 'abacus'; known: onnxruntime"):
        profile(SPACE, "abacus")
    with pytest.raises(SpaceError, match="fp32 only"):
        profile(SPACE, FakeDevice(), precision="bf16")
    with pytest.raises(TableError, match="at least 1"):
        profile(SPACE, FakeDevice(), held_out_networks=0)


def test_non_additive_costs_show_as_error():
    """Whole networks that cost up to thrice their operators: a table cannot know, and says so."""

    def cost(model: onnx.ModelProto) -> int:
        weights = weight_cost(model)
        whole = {"0.conv.weight", "2.expand.weight"} <= {t.name for t in model.graph.initializer}
        return weights * (1 + weights // 10 % 3) if whole else weights

    table = profile(SPACE, FakeDevice(cost=cost), rounds=2)
    assert min(row["held_out"]["mape"] for row in table.calibration) > 10
    assert table.verdict().startswith("poor")


def test_onnxruntime_end_to_end(tmp_path):
    table = profile(SPACE, "onnxruntime", rounds=4, calibration_networks=3, held_out_networks=2, rng=0)
    table.save(tmp_path / "t.json")
    assert LatencyTable.load(tmp_path / "t.json") == table
    assert table.runtime["name"] == "onnxruntime"
    assert table.protocol["statistic"] == "cpu-trimmed-mean"
    assert all(entry.ms > 0 and entry.count >= 4 for entry in table.operators.values())
    assert (table.latency_ms(SPACE.sample(100, 0)) > 0).all()


def test_profiling_loads_no_torch():
    code = "import sys, hwnas.latency.profiling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_costs_more_than_one_image() -> None:
    stage = {"block": "fused", "width": 8, "depth": [1, 2], "kernel": [3, 5], "expand": 2}
    space = get_space("mobilenetv3", resolutions=(32,), stages=[stage], head={"width": 16})
    tables = {
        batch_size: profile(
            space, batch_size=batch_size, rounds=4, calibration_networks=2, held_out_networks=1
        )
        for batch_size in (1, 32)
    }
    archs = space.enumerate()
    assert (tables[32].latency_ms(archs) > 4 * tables[1].latency_ms(archs)).all()
    assert tables[32].runtime["batch_size"] == 32
    with pytest.raises(TableError, match="batch_size is 0"):
        profile(space, batch_size=0)
