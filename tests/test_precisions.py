"""Precision as a choice of the search: its space, its table, and a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import hwnas
from hwnas import pipeline
from hwnas.choosing import choose
from hwnas.errors import ConfigError, SpaceError, TableError
from hwnas.export.onnx import onnx_accuracy
from hwnas.finetuning import finetune_model
from hwnas.latency.devices import DEVICES
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import open_run
from hwnas.spaces import PrecisionSpace, get_space, space_of
from tests.conftest import TINY, write_config
from tests.latency.fakes import FakeDevice, small_space

BOTH = ("fp32", "int8")
STAGE = {"block": "fused", "width": 12, "depth": [1, 2, 3], "kernel": 3, "expand": [1, 2], "stride": 2}
SINGLE: dict[str, Any] = {  # a space in which precision is no choice
    "resolutions": [16],
    "stem": {"width": 8, "activation": "relu"},
    "stages": [{**STAGE, "activation": "relu"}],
    "head": {"width": 32, "activation": "relu"},
}


@pytest.fixture(scope="module")
def space() -> PrecisionSpace:
    found = small_space(precisions=BOTH)
    assert isinstance(found, PrecisionSpace)
    return found


def halved(model: onnx.ModelProto) -> int:
    """A cost in nanoseconds that is additive over operators: by their weights, in 8 bits half of that."""
    kinds = {node.op_type for node in model.graph.node}
    ends = ("weight", "weight_quantized")
    tensors = [tensor for tensor in model.graph.initializer if tensor.name.endswith(ends)]
    weights = sum(int(np.prod(tensor.dims)) for tensor in tensors)
    return (10 if "QuantizeLinear" in kinds else 20) * weights


def test_precision_is_one_more_choice(space: PrecisionSpace) -> None:
    plain = small_space()
    assert space.size == 2 * plain.size
    assert space.choices[0].values == BOTH
    assert space.id != plain.id
    assert space.input_shape == plain.input_shape
    assert space_of(space.definition) == space
    for arch in space.sample(20, 0):
        values = arch.values
        precision = values.pop("precision")
        own = plain.architecture(values)
        assert space.precision(arch) == precision
        assert space.operators(arch) == plain.operators(own, precision)
        assert space.macs([arch]) == plain.macs([own])
        assert space.params([arch]) == plain.params([own])
    assert {o.precision for o in space.all_operators()} == set(BOTH)


@pytest.mark.parametrize("precisions", [(), ("fp32", "fp32"), ("fp16",), "int8", 8])
def test_what_is_no_precision(precisions: Any) -> None:
    with pytest.raises(SpaceError, match="precisions"):
        small_space(precisions=precisions)


def test_a_network_in_8_bits_is_built_and_exported_in_single_precision(
    space: PrecisionSpace, tmp_path: Path
) -> None:
    values = space.sample(1, 0)[0].values
    built = [hwnas.build(space, space.architecture({**values, "precision": p})) for p in BOTH]
    assert built[0].operators == built[1].operators
    path = hwnas.export_onnx(built[1], tmp_path / "net.onnx", (1, *built[1].input_shape))
    assert all(node.op_type != "QuantizeLinear" for node in onnx.load(path).graph.node)


def test_a_table_has_an_entry_per_precision(space: PrecisionSpace, tmp_path: Path) -> None:
    table = profile(space, FakeDevice(halved), rounds=6, calibration_networks=16, held_out_networks=6)
    assert set(table.operators) == {operator.key for operator in space.all_operators()}
    assert table.runtime["precisions"] == list(BOTH)
    groups = {(row["resolution"], row["precision"]) for row in table.calibration}
    assert groups == {(size, precision) for size in (8, 12) for precision in BOTH}
    assert all(row["held_out"]["mape"] < 2 for row in table.calibration)
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json", precision="int8")
    archs = space.sample(50, 0)
    other = [
        space.architecture({**a.values, "precision": "int8" if a.values["precision"] == "fp32" else "fp32"})
        for a in archs
    ]
    ratio = loaded.latency_ms(archs) / loaded.latency_ms(other)
    in_8_bits = archs.column("precision") == "int8"
    assert (ratio[in_8_bits] < 0.8).all()
    assert (ratio[~in_8_bits] > 1.25).all()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run whose device is twice as fast in 8 bits."""
    space = {**SINGLE, "precisions": list(BOTH)}
    return write_config(
        tmp_path_factory.mktemp("config"),
        space=space,
        latency={"device": "halved"},
        search={"evaluations": 16, "random_baseline": False},
    )


def test_a_run_searches_both_precisions(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Any
) -> None:
    monkeypatch.setitem(DEVICES, "halved", lambda threads: FakeDevice(halved))
    monkeypatch.setattr(pipeline.verify, "own_device", lambda run: FakeDevice(halved))
    run = hwnas.run(config, run_dir=tmp_path / "run")
    evaluated = run.evaluations()
    assert set(evaluated["precision"]) == set(BOTH)
    small = [model for model in run.models if model["precision"] == "int8"]
    assert small
    for model in small:
        arch, folder = run.space.architecture(model["architecture"]), run.directory / "models" / model["id"]
        assert arch.values["precision"] == "int8"
        data = (folder / "model.onnx").read_bytes()
        assert any(node.op_type == "QuantizeLinear" for node in onnx.load_from_string(data).graph.node)
        for split in ("validation", "test"):
            batches = run.data(split).batches(50, run.space.resolution(arch))
            assert onnx_accuracy(data, batches) == model[f"{split}_accuracy"]
        (row,) = evaluated[evaluated["id"] == model["id"]].to_dict("records")
        assert row["accuracy"] == model["validation_accuracy"]
        assert model["predicted"]["latency_ms"] == run.table.latency_ms([arch])[0]
        assert model["measured"]["latency_ms"] == pytest.approx(model["predicted"]["latency_ms"], rel=0.1)
        assert hwnas.load_model(folder).input_shape == (1, 16, 16)
        card = (folder / "README.md").read_text()
        assert "| In 8 bits | as the search chose" in card
        with pytest.raises(ConfigError, match=r"no model of .* that can be fine-tuned"):
            finetune_model(run, model["id"], 1)
    assert {row["precision"] for row in choose(run, {})["models"]} >= {"int8"}
    code, said, _ = hwnas_command("front", run.directory)
    assert code == 0
    for row in choose(run, {})["models"]:
        assert re.search(rf"{row['id']}\s+{'8' if row['precision'] == 'int8' else '32'} ", said)
    assert "in 8 bits" in (run.directory / "report.html").read_text()
    again = open_run(config, run_dir=run.directory)  # killed and gone on with: nothing is evaluated anew
    again.make(["search"])
    assert [e.metrics for e in again.searched.evaluations] == [e.metrics for e in run.searched.evaluations]


@pytest.mark.parametrize(
    ("latency", "message"),
    [
        (
            {"device": "torch"},
            r"space\.precisions: the latency is of the runtime torch, which runs no quantised",
        ),
        ({"source": "predictor"}, "learns from what is the same in every precision"),
    ],
)
def test_what_cannot_tell_precisions_apart_is_refused(
    config: Path, tmp_path: Path, latency: dict[str, Any], message: str
) -> None:
    overrides = {f"latency.{name}": value for name, value in {"device": "onnxruntime", **latency}.items()}
    with pytest.raises(ConfigError, match=message):
        open_run(config, run_dir=tmp_path / "run", overrides=overrides).make(["profile"])


@pytest.fixture(scope="module")
def table_of_both(config: Path) -> LatencyTable:
    space = open_run(config, run_dir=config.parent / "profiled").space
    return profile(space, FakeDevice(halved), rounds=6, calibration_networks=4, held_out_networks=4)


@pytest.mark.parametrize(
    ("chosen", "held", "fits"),
    [
        (["int8"], ["int8"], True),
        (["int8", "fp32"], ["int8", "fp32"], True),
        (["fp32", "int8"], ["int8", "fp32"], True),  # each is looked up by name
        (["int8"], ["fp32"], False),
        (["fp32", "int8"], ["fp32"], False),
        (None, ["fp32", "int8"], True),
        (None, ["int8", "fp32"], False),  # it would answer for 8 bits
    ],
)
def test_a_given_table_has_the_precisions_that_are_chosen_from(
    table_of_both: LatencyTable, tmp_path: Path, chosen: list[str] | None, held: list[str], fits: bool
) -> None:
    file = tmp_path / "table.json"
    replace(table_of_both, runtime={**table_of_both.runtime, "precisions": held}).save(file)
    space = SINGLE if chosen is None else {**SINGLE, "precisions": chosen}
    run = open_run(
        write_config(tmp_path, space=space, latency={"table": str(file)}), run_dir=tmp_path / "run"
    )
    if fits:
        run.make(["profile"])
        assert run.table.runtime["precisions"] == held
        return
    asked = ", ".join(chosen or ["fp32"])
    with pytest.raises(TableError, match=rf"it is of precision .*{held[0]}.*, models are of {asked}"):
        run.make(["profile"])


def test_spaces_without_the_choice_are_what_they_were() -> None:
    parameters = {name: value for name, value in TINY["space"].items() if name != "name"}
    assert "precisions" not in get_space("mobilenetv3", **parameters).definition
