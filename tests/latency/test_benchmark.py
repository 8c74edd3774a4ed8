"""Any ONNX files timed together."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwnas.cli import main
from hwnas.errors import ConfigError, DeviceError, StoreError
from hwnas.latency import runner
from hwnas.latency.benchmark import benchmark, parse_shape, read_model
from hwnas.latency.devices import get_device
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.external_data import MAX_MODEL_BYTES
from hwnas.latency.measure import Plan
from tests.latency.devices.board import running_board
from tests.latency.test_together import MODELS, Shifting


def network(
    path: Path,
    shape: tuple[int | str | None, ...] = (1, 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    inputs: int = 1,
    external: bool = False,
    properties: dict[str, str] | None = None,
) -> Path:
    """Convolution and mean of a first input; further ones are only there."""
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    names = ["image", *(f"more{i}" for i in range(1, inputs))]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Conv", ["cast", "weight"], ["features"], pads=[1, 1, 1, 1]),
            helper.make_node("GlobalAveragePool", ["features"], ["out"]),
        ],
        "network",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (shape[0], 4, 1, 1))],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, properties or {})
    onnx.save(model, path, save_as_external_data=external, size_threshold=0)
    return path


def text_network(path: Path, sequence: int | str = "sequence", kind: int = TensorProto.INT64) -> Path:
    """An embedding of token ids, times a mask of another type, summed over the tokens."""
    table = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["vectors"]),
            helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
            helper.make_node("Mul", ["vectors", "column"], ["out"]),
        ],
        "text",
        [
            helper.make_tensor_value_info("ids", kind, ("batch", sequence)),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ("batch", sequence)),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ("batch", sequence, 8))],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([-1]), "last")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def failing_network(path: Path) -> Path:
    """A model that loads, but fails when it runs: it reshapes its input for batches of 4."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["image", "rows"], ["out"], name="to_rows")],
        "failing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 3, 8, 8))],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, (4, 192))],
        [numpy_helper.from_array(np.array([4, 192]), "rows")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def shape_of(data: bytes) -> list[int]:
    return [d.dim_value for d in onnx.load_from_string(data).graph.input[0].type.tensor_type.shape.dim]


def test_an_open_batch_is_one_and_said(tmp_path: Path) -> None:
    data, names, notes = read_model(network(tmp_path / "a.onnx", ("batch", 3, 8, 8)), {})
    assert (shape_of(data), names, notes) == ([1, 3, 8, 8], ["image"], ["batch 'batch' is taken as 1"])
    data, _, notes = read_model(network(tmp_path / "b.onnx"), {})
    assert (shape_of(data), notes) == ([1, 3, 8, 8], [])
    given = {"image": (4, 3, 16, 8)}
    data, _, notes = read_model(network(tmp_path / "c.onnx", ("n", 3, "h", None)), given)
    assert (shape_of(data), notes) == ([4, 3, 16, 8], [])


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_inputs_of_several_types_are_timed(tmp_path: Path, kind: int) -> None:
    """A dimension that one --input fixes is known in the other inputs."""
    path = text_network(tmp_path / "text.onnx", kind=kind)
    with pytest.raises(ConfigError, match="ids is batchxsequence; say its size: --input ids:1x128"):
        read_model(path, {})
    drawn = "integers of ids are drawn from 0 and 1"
    for shapes, notes in (
        ({"ids": (2, 16)}, [drawn]),
        ({"ids": (1, 16), "mask": (1, 16)}, [drawn]),
        ({"mask": (3, 16)}, [drawn]),
    ):
        data, names, found = read_model(path, shapes)
        (batch, _) = next(iter(shapes.values()))
        declared = [
            [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in onnx.load_from_string(data).graph.input
        ]
        assert (declared, names, found) == ([[batch, 16]] * 2, ["ids", "mask"], notes)
    with pytest.raises(ConfigError, match="--input mask makes dimension sequence 8, another --input 16"):
        read_model(path, {"ids": (1, 16), "mask": (1, 8)})
    fixed = text_network(tmp_path / "fixed.onnx", 16, kind)
    assert read_model(fixed, {})[2] == ["batch 'batch' is taken as 1", drawn]
    found = benchmark([path, fixed], OnnxRuntimeDevice(), {"ids": (1, 16)}, rounds=12)
    assert all(row["latency_ms"] > 0 for row in found["models"])


@pytest.mark.parametrize(
    "kind", [TensorProto.UINT8, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL]
)
def test_images_of_any_number_are_timed(tmp_path: Path, kind: int) -> None:
    path = network(tmp_path / "net.onnx", kind=kind, inputs=2)
    assert benchmark([path], OnnxRuntimeDevice(), rounds=12)["models"][0]["latency_ms"] > 0


@pytest.mark.parametrize("open_size", [-1, 0])
def test_sizes_below_one_are_open(tmp_path: Path, open_size: int) -> None:
    """Many exporters write -1 for an open size, some 0."""
    shape = (open_size, 3, open_size, open_size)
    path = network(tmp_path / "net.onnx", shape)
    with pytest.raises(ConfigError, match=rf"input image is {open_size}x3x{open_size}x{open_size}; say its"):
        read_model(path, {})
    data, _, notes = read_model(path, {"image": (1, 3, 48, 192)})
    assert (shape_of(data), notes) == ([1, 3, 48, 192], [])
    session = onnxruntime.InferenceSession(data)
    (output,) = session.run(None, {"image": np.zeros((1, 3, 48, 192), np.float32)})
    assert output.shape == (1, 4, 1, 1)
    with pytest.raises(ConfigError, match="--input image does not fit its shape"):
        read_model(path, {"image": (1, 4, 48, 192)})
    data, _, notes = read_model(network(tmp_path / "batch.onnx", (open_size, 3, 8, 8)), {})
    assert (shape_of(data), notes) == ([1, 3, 8, 8], [f"batch '{open_size}' is taken as 1"])


@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (1, 3, 0, 8), (1, 3, "height", 8)])
def test_a_device_refuses_an_open_size_other_than_the_batch(
    tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    data = network(tmp_path / "net.onnx", shape).read_bytes()
    with pytest.raises(DeviceError, match=r"only the batch may be open, fix the other sizes"):
        get_device("onnxruntime").measure([data], Plan(((0,),)))


@pytest.mark.parametrize(
    ("network_is", "shapes", "message"),
    [
        (
            {"shape": (1, 3, "h", None)},
            {},
            r"input image is 1x3xhx\?; say its size: --input image:1x3x224x224",
        ),
        ({"shape": (1, 3, "h", 8)}, {"image": (1, 3, 8, 9)}, "--input image does not fit its shape, 1x3xhx8"),
        ({"shape": (1, 3, "h", 8)}, {"image": (1, 3, 8)}, "--input image does not fit its shape"),
        ({"kind": TensorProto.STRING}, {}, "input image is of STRING; models of FLOAT, .*, INT64, .* can be"),
        ({"shape": ("n", "length")}, {}, "image is nxlength; say its size: --input image:1x128"),
        (
            {"shape": ("n", 3, "h", "h")},
            {"image": (1, 3, 8, 9)},
            "--input image makes dimension h 9, another --input 8",
        ),
        (
            {"properties": {"input_ranges": "3"}},
            {},
            r"net\.onnx: the property input_ranges .* is '3', no JSON",
        ),
    ],
)
def test_what_cannot_be_timed_as_it_is(
    tmp_path: Path, network_is: dict[str, Any], shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_model(network(tmp_path / "net.onnx", **network_is), shapes)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read \S+none\.onnx as an ONNX model"):
        read_model(tmp_path / "none.onnx", {})
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ConfigError, match=r"cannot read \S+text\.onnx as an ONNX model"):
        read_model(tmp_path / "text.onnx", {})


def test_a_model_over_the_limit_of_protobuf_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A sparse file takes no space; it is larger than the limit in itself, or as external weights."""
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    message = r"large\.onnx has 3\.0 GiB with its weights, and protobuf allows 2 GiB .* use a smaller variant"
    with pytest.raises(StoreError, match=message):
        read_model(path, {})
    network(path)
    model = onnx.load(path)
    weight = model.graph.initializer.add(name="more", data_type=TensorProto.FLOAT, dims=[3 << 28])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    onnx.save(model, path)
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(3 << 30)
    with pytest.raises(StoreError, match=message):
        read_model(path, {})
    assert runner.MAX_PIECE >= MAX_MODEL_BYTES


def test_a_model_that_fails_when_it_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message has the file, the operator, the reason and a remedy, and the remedy works."""
    good = network(tmp_path / "good.onnx")
    failing = failing_network(tmp_path / "failing.onnx")
    monkeypatch.setattr(sys, "argv", ["hwnas", "benchmark", str(good), str(failing), "--rounds", "12"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {failing}: the model loads, but fails when it runs: ")
    assert error.count("Reshape node. Name:'to_rows'") == 1
    assert "(hwnas benchmark --input NAME:SHAPE)" in error
    found = benchmark([failing], OnnxRuntimeDevice(), {"image": (4, 3, 8, 8)}, rounds=12)
    assert found["models"][0]["latency_ms"] > 0


def test_a_model_that_fails_on_a_board_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = network(tmp_path / "good.onnx")
    failing = failing_network(tmp_path / "failing.onnx")
    (tmp_path / "board").mkdir()
    with running_board(tmp_path / "board", monkeypatch) as board:
        message = rf"^{failing}: \S+: the model loads, but fails when it runs: .*Name:'to_rows'.*; export it"
        with pytest.raises(DeviceError, match=message):
            benchmark([good, failing], get_device(f"ssh://{board.address()}"), rounds=12)
        assert not list((board.cache / "jobs").iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [("image:1x3x224x224", ("image", (1, 3, 224, 224))), ("a:b:2", ("a:b", (2,)))],
)
def test_shapes_as_text(text: str, expected: tuple[str, tuple[int, ...]]) -> None:
    assert parse_shape(text) == expected


@pytest.mark.parametrize("text", ["1x3", "image:", "image:1x0", "image:1,3", ":1x3", "image:1x3x"])
def test_shapes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--input takes name:1x3x224x224, got"):
        parse_shape(text)


def test_ratios_are_taken_pass_by_pass(tmp_path: Path) -> None:
    """All files are slower in every other pass: latencies are uncertain, ratios are not."""
    files = []
    for name, data in zip("abc", MODELS, strict=True):
        (tmp_path / f"{name}.onnx").write_bytes(data)
        files.append(tmp_path / f"{name}.onnx")
    found = benchmark(files, Shifting(1.0, 1.3), rounds=12)
    assert [row["file"] for row in found["models"]] == [str(file) for file in files]
    assert [row["ratio"] for row in found["models"]] == pytest.approx([1, 2, 3], rel=1e-3)
    for row in found["models"]:
        assert not row["stable"]
        low, high = row["ratio_ci"]
        assert low * (1 - 1e-9) <= row["ratio"] <= high * (1 + 1e-9)
        assert high - low < 0.01
    assert "above those of the fastest pass" in found["noise"][0]
    with pytest.raises(ConfigError, match="no file has an input 'x'; inputs: input"):
        benchmark(files, Shifting(1.0), {"x": (1,)})


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real ONNX Runtime; weights beside the file; a folder that holds a model."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hwnas", "benchmark", *map(str, arguments), "--rounds", "12"])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    small = network(tmp_path / "small.onnx", ("n", 3, 8, 8), external=True)
    (tmp_path / "large").mkdir()
    network(tmp_path / "large" / "model.onnx", (1, 3, 128, 128))
    code, out, err = command(small, tmp_path / "large", "--json")
    assert code == 0, err
    first, second = json.loads(out)["models"]
    assert first["ratio"] == 1
    assert second["ratio"] > 1
    low, high = first["latency_ci_ms"]
    assert 0 <= low <= first["latency_ms"] <= high
    assert len(first["passes_ms"]) == 6
    code, out, _ = command(small)
    assert code == 0
    assert "batch 'n' is taken as 1" in out
    core = max(os.sched_getaffinity(0))
    code, out, err = command(small, "--cores", core, "--json")
    assert code == 0, err
    assert json.loads(out)["cores"] == [core]
    code, _, err = command(small, "--cores", "4-")
    assert (code, err) == (
        1,
        "error: --cores: '4-' is no list of cores; give numbers and ranges, such as 4-7 or 0,2\n",
    )
    code, _, err = command(small, "--input", "image")
    assert (code, err) == (1, "error: --input takes name:1x3x224x224, got 'image'\n")
