"""Tables of networks with two inputs: what is timed, and the calibration by length."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx
import pytest

import hwnas
from hwnas.errors import TableError
from hwnas.latency.predictor import learn_latency
from hwnas.latency.profiling import subject_of
from hwnas.latency.table import LatencyTable, group_lookup, size_text
from hwnas.ops.onnx import parts
from hwnas.spaces import Operator, PrecisionSpace
from tests.latency.fakes import CALL_NS, FakeDevice
from tests.spaces.two_inputs import TwoInputs

SPACE = TwoInputs()


def cost_ns(operators: Iterable[Operator]) -> int:
    """A cost that is additive over operators: of MACs, and of elements that are written."""
    return sum(10 * (operator.macs + math.prod(operator.out_shape)) for operator in operators)


def known_cost(model: onnx.ModelProto) -> int:
    return cost_ns(parts(model)[0].operators)


def test_operators_are_timed_alone_and_behind_the_source_of_their_first_input() -> None:
    subject = subject_of(SPACE, "fp32", 4, 2, 0)
    for i, operator in enumerate(subject.operators):
        alone, behind = (parts(onnx.load_from_string(subject.models[j]))[0] for j in subject.parts[i, [0, 2]])
        assert alone.operators == (operator,)
        if operator.kind == "embed_tokens":
            assert behind == alone
            assert [(s.name, s.dtype, s.high) for s in alone.inputs] == [("input", "int64", 50)]
            continue
        assert behind.operators[1] == operator
        before = {
            "masked_sum": ("embed_tokens", "masked_sum"),
            "conv": ("embed_tokens",),
            "classifier": ("masked_sum",),
        }
        assert behind.operators[0].kind in before[operator.kind]
        if operator.kind == "masked_sum":
            assert [spec.name for spec in behind.inputs] == ["input", "1.memory", "1.mask"]


def test_a_table_of_known_costs_predicts_them(tmp_path) -> None:
    device = FakeDevice(known_cost)
    table = hwnas.profile(SPACE, device, rounds=2, calibration_networks=12, held_out_networks=4)
    assert [(row["length"], "resolution" in row) for row in table.calibration] == [(6, False), (8, False)]
    assert list(table.calibration[0])[:3] == ["space", "length", "precision"]
    assert table.operators.keys() == {operator.key for operator in SPACE.all_operators()}
    archs = SPACE.enumerate()
    expected = [(CALL_NS + cost_ns(SPACE.operators(arch))) / 1e6 for arch in archs]
    np.testing.assert_allclose(table.latency_ms(archs), expected, rtol=0.03)
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    assert np.array_equal(again.latency_ms(archs), table.latency_ms(archs))
    assert f"{SPACE.id} at length 6, fp32: " in again.summary()


def test_the_group_of_a_network_is_its_length_and_precision() -> None:
    for space in (SPACE, PrecisionSpace(SPACE, ("fp32", "int8"))):
        groups, look_up = group_lookup(space)
        archs = space.sample(20, 0)
        expected = [(space.input_size(arch), space.precision(arch)) for arch in archs]
        assert [groups[i] for i in look_up(archs)] == expected


def test_a_size_has_a_name_that_tables_know() -> None:
    space = TwoInputs()
    space.size_name = "frames"
    with pytest.raises(TableError, match="called 'frames'; size_name is one of resolution, length"):
        group_lookup(space)


@pytest.mark.parametrize("sizes", [{}, {"resolution": 8, "length": 8}])
def test_a_row_of_calibration_has_one_size(sizes) -> None:
    row = {"space": "s", "precision": "fp32", "slope": 1.0, "intercept_ms": 0.0, **sizes}
    data = {
        "schema": 1,
        "device": {"name": "board", "cpu": None},
        "runtime": {"name": "fake", "version": "1", "threads": 1, "precisions": ["fp32"]},
        "protocol": {},
        "calibration": [row],
        "operators": [{"key": "a", "ms": 1.0, "std_ms": None, "count": 1}],
    }
    with pytest.raises(TableError, match="it has not one of resolution, length, the size of the inputs"):
        LatencyTable.from_dict(data)
    good = LatencyTable.from_dict({**data, "calibration": [{**row, "resolution": 8, "length": None}]})
    assert size_text(good.calibration[0]) == "8 px"


def test_in_8_bits_graphs_are_timed_too() -> None:
    table = hwnas.profile(
        TwoInputs((6,)),
        FakeDevice(lambda model: 10 * len(model.graph.node)),
        precision="int8",
        rounds=2,
        calibration_networks=3,
        held_out_networks=2,
    )
    assert all(key.endswith("p:int8") for key in table.operators)


def test_latency_is_learnt_from_whole_networks() -> None:
    predictor = learn_latency(SPACE, FakeDevice(known_cost), networks=30, rounds=2)
    archs = SPACE.sample(20, 3)
    expected = [(CALL_NS + cost_ns(SPACE.operators(arch))) / 1e6 for arch in archs]
    np.testing.assert_allclose(predictor.latency_ms(archs), expected, rtol=0.05)
