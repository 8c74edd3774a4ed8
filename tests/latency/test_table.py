from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest

from hwnas.errors import ChecksumError, StoreError, TableError
from hwnas.latency.measure import Identity
from hwnas.latency.table import Entry, LatencyTable, group_lookup
from hwnas.spaces import Choice, SearchSpace
from hwnas.store import sealed
from tests.latency.fakes import small_space

SPACE = small_space()
CALIBRATION = [
    {
        "space": SPACE.id,
        "resolution": resolution,
        "precision": "fp32",
        "slope": slope,
        "intercept_ms": intercept,
        "networks": 12,
        "held_out": {"networks": 12, "mape": 2.0, "kendall_tau": 0.9, "within_10pct": 100.0},
        "macs_baseline": {"mape": 8.0, "kendall_tau": 0.6},
        "repeatability_cv": 1.0,
    }
    for resolution, slope, intercept in ((8, 2.0, 0.5), (12, 3.0, -0.25))
]
DEVICE = {"name": "board", "cpu": "some", "cores": 2}
RUNTIME = {"name": "onnxruntime", "version": "1", "threads": 1, "graph_optimization": "all"}


def table(operators=None, calibration=CALIBRATION, space=SPACE) -> LatencyTable:
    if operators is None:
        operators = {op.key: Entry(op.macs / 1e5, 0.001, 48) for op in space.all_operators()}
    protocol = {"statistic": "cpu-trimmed-mean", "rounds": 48, "warmup_runs": 5, "kept_runs": 5}
    runtime = {**RUNTIME, "precisions": ["fp32"], "batch_size": 1}
    return LatencyTable(DEVICE, runtime, protocol, calibration, operators)


# ---- looking up ---------------------------------------------------------------------------------


def test_latency_is_the_calibrated_sum():
    archs = SPACE.sample(50, 0)
    expected = []
    for arch in archs:
        total = sum(op.macs / 1e5 for op in SPACE.operators(arch))
        expected.append(2 * total + 0.5 if SPACE.resolution(arch) == 8 else 3 * total - 0.25)
    found = table().latency_ms(archs)
    assert found.shape == (50,)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(table().latency_ms(list(archs)), found)
    assert table().latency_ms([]).shape == (0,)


def test_resolutions_of_many_are_those_of_each():
    for space in (SPACE, small_space(resolutions=(10,)), small_space(stem={"width": [8, 16]})):
        archs = space.sample(20, 0)
        groups, groups_of = group_lookup(space)
        expected = [(space.resolution(arch), space.precision(arch)) for arch in archs]
        assert [groups[i] for i in groups_of(archs)] == expected


def test_a_missing_operator_is_named_only_where_it_is_needed():
    arch, *others = SPACE.sample(200, 0)
    gone = SPACE.operators(arch)[2].key
    partial = table({key: entry for key, entry in table().operators.items() if key != gone})
    without = [a for a in others if gone not in {op.key for op in SPACE.operators(a)}]
    np.testing.assert_array_equal(partial.latency_ms(without), table().latency_ms(without))
    with pytest.raises(TableError, match=f"no operator {gone}"):
        partial.latency_ms([without[0], arch])


def test_a_space_that_cannot_be_built_is_refused():
    space = SearchSpace("macro", [Choice("a", (1, 2))])
    with pytest.raises(TableError, match="no operators"):
        table().latency_ms(space.sample(1, 0))


def test_substitutes_for_a_calibration_are_said(caplog):
    smaller = small_space(resolutions=(8,), head={"width": 16, "activation": "relu"})
    archs = smaller.sample(5, 0)
    with caplog.at_level(logging.WARNING):
        found = table().latency_ms(archs)
    assert "using that of" in caplog.text
    np.testing.assert_allclose(found, 2 * table().sum_ms(smaller, archs) + 0.5)
    caplog.clear()
    plain = table(calibration=[])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(plain.latency_ms(archs), plain.sum_ms(smaller, archs))
        plain.latency_ms(archs)
    assert caplog.text.count("plain sums") == 1


def test_a_calibrated_space_warns_of_nothing(caplog):
    table().latency_ms(SPACE.sample(5, 0))
    assert not caplog.records


# ---- files --------------------------------------------------------------------------------------


def write(path, data, seal=True):
    path.write_text(json.dumps(sealed(data) if seal else data))
    return path


def test_load_gives_what_was_saved(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    loaded = LatencyTable.load(path)
    assert loaded == table()
    assert loaded.to_dict() == json.loads(path.read_text())
    archs = SPACE.sample(20, 0)
    np.testing.assert_array_equal(loaded.latency_ms(archs), table().latency_ms(archs))


def test_file_has_one_operator_a_line(tmp_path):
    path = tmp_path / "table.json"
    table().save(path)
    lines = [line for line in path.read_text().splitlines() if '"key"' in line]
    assert [json.loads(line.rstrip(","))["key"] for line in lines] == list(table().operators)


@pytest.mark.parametrize("value", [0.0, -1.0, "fast", None, True])
def test_impossible_latencies_are_refused(tmp_path, value):
    data = table().to_dict()
    data["operators"][1]["ms"] = value
    with pytest.raises(TableError, match=data["operators"][1]["key"]):
        LatencyTable.load(write(tmp_path / "t.json", data))


def test_nan_and_missing_latencies_are_refused(tmp_path):
    data = table().to_dict()
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**data, "operators": [{**data["operators"][0], "ms": math.nan}]}))
    with pytest.raises(StoreError, match="NaN"):
        LatencyTable.load(path)
    del data["operators"][0]["ms"]
    with pytest.raises(TableError, match="has no 'ms'"):
        LatencyTable.load(write(path, data))
    for value in (math.nan, math.inf):
        with pytest.raises(TableError, match="finite"):
            Entry(value, 0.0, 1)


def test_other_wrong_files_are_refused(tmp_path):
    data, path = table().to_dict(), tmp_path / "t.json"
    for change, message in [
        ({"schema": 2}, "schema 2"),
        ({"operators": []}, "no operators"),
        ({"operators": data["operators"][:1] * 2}, "twice"),
        ({"runtime": RUNTIME}, "precisions"),
        ({"calibration": [{**CALIBRATION[0], "slope": 0.0}]}, "slope 0.0"),
        ({"calibration": [{"slope": 1.0, "intercept_ms": 0.0}]}, "calibration"),
        ({"protocol": {"noisy": True}}, "noisy is true, and noise, the reasons, is not there"),
        ({"device": 3}, "not a latency table"),
        ({"device": {"name": "board"}}, r"device\.cpu: Field required"),
        ({"runtime": {"name": "onnxruntime", "precisions": ["fp32"]}}, r"runtime\.version: Field required"),
    ]:
        with pytest.raises(TableError, match=message):
            LatencyTable.load(write(path, {**data, **change}))
    data["operators"][0]["ms"] *= 2
    with pytest.raises(ChecksumError, match="--reseal"):
        LatencyTable.load(write(path, data, seal=False))
    with pytest.raises(ChecksumError):
        LatencyTable.load(path, force=True)


def test_a_table_of_another_device_is_refused_unless_forced(tmp_path):
    path = tmp_path / "t.json"
    table().save(path)
    same = Identity(DEVICE, RUNTIME, "cpu-trimmed-mean")
    assert LatencyTable.load(path, same, "fp32") == table()
    for other, precision, message in [
        (Identity({**DEVICE, "cpu": "another"}, RUNTIME, ""), None, "cpu is 'some', asked for 'another'"),
        (Identity(DEVICE, {**RUNTIME, "threads": 2}, ""), None, "threads is 1, asked for 2"),
        (Identity(DEVICE, {**RUNTIME, "name": "openvino"}, ""), None, "'openvino'"),
        (same, "int8", "'int8'"),
    ]:
        with pytest.raises(TableError, match=message):
            LatencyTable.load(path, other, precision)
        assert LatencyTable.load(path, other, precision, force=True) == table()


# ---- judging ------------------------------------------------------------------------------------


def test_summary_holds_what_a_person_judges_by():
    text = table().summary()
    for part in ("board", "MAPE 2.0 %", "tau 0.90", "within ±10 % 100 %", "MACs alone: MAPE 8.0 %", "8 px"):
        assert part in text
    assert "Verdict: good" in text


def test_verdict_says_what_is_wrong():
    def verdict(**changes):
        held_out = {**CALIBRATION[0]["held_out"], **changes}
        return table(calibration=[{**CALIBRATION[0], "held_out": held_out}]).verdict()

    assert verdict().startswith("good")
    assert verdict(mape=7.0).startswith("usable")
    assert verdict(mape=9.0).startswith("no better than MACs alone")
    assert verdict(mape=12.0).startswith("poor")
    assert table(calibration=[]).verdict().startswith("not judged")
