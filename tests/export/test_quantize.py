"""Models in 8 bits: how they are made, when they are kept. What is fast here is not asserted."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

import hwnas
from hwnas import pipeline
from hwnas.choosing import choose
from hwnas.cli import app, models_table, out
from hwnas.errors import ConfigError, SpaceError
from hwnas.export import quantize as module
from hwnas.export.compare import Comparison, compare
from hwnas.export.onnx import onnx_logits
from hwnas.export.predict import Predictor
from hwnas.export.quantize import METHODS, by_sensitivity, decide, quantize, quantized
from hwnas.latency.devices import get_device
from hwnas.networks.blocks import build_network, folded_weights
from hwnas.networks.onnx_graph import onnx_model
from hwnas.pipeline import load_run
from hwnas.spaces import Operator, get_space
from tests.latency.fakes import FakeDevice
from tests.networks.small_spaces import lively

STAGES = {
    "relu": {"block": "fused", "width": 16, "depth": [1, 2], "kernel": 3, "expand": 2, "activation": "relu"},
    "hswish": {"block": "mbconv", "width": 16, "depth": [1, 2], "kernel": 3, "expand": 2, "se": True},
}
RESOLUTION = 12


def exported(activation: str, batch: int | None = 1) -> tuple[bytes, list[Operator]]:
    space = get_space(
        "mobilenetv3",
        resolutions=(RESOLUTION,),
        classes=5,
        stem={"width": 8, "activation": activation},
        stages=[{**STAGES[activation], "activation": activation}],
        head={"width": 24, "activation": activation},
    )
    network = build_network(space, space.architecture({"stage1.depth": 2}), rng=0)
    lively(network)
    model = onnx_model(network.operators, folded_weights(network), batch, {"classes": "[]"})
    return model.SerializeToString(), list(network.operators)


def some_images(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, 3, RESOLUTION, RESOLUTION), dtype=np.float32)


def agreement(data: bytes) -> Callable[[bytes], float]:
    """Accuracy where the labels are what the model in single precision says."""
    images = some_images(200)
    labels = onnx_logits(data, images).argmax(1)
    return lambda model: 100 * float((onnx_logits(model, images).argmax(1) == labels).mean())


def in_8_bits(model: bytes) -> set[str]:
    """The operators, by position, whose weights are in 8 bits."""
    graph = onnx.load_from_string(model).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    return {
        node.name.split(".")[0]
        for node in graph.node
        if node.op_type in ("Conv", "Gemm") and made_by.get(node.input[1]) == "DequantizeLinear"
    }


@pytest.mark.parametrize("activation", ["relu", "hswish"])
@pytest.mark.parametrize("batch", [1, 3, None])
def test_real_networks_in_8_bits_say_much_the_same(activation: str, batch: int | None) -> None:
    data, operators = exported(activation, batch)
    for method in METHODS:
        made = quantized(data, some_images(40), method)
        expected, found = (onnx_logits(model, some_images(50)) for model in (data, made))
        assert not np.array_equal(found, expected)
        noise = np.square(found - expected).mean() / np.square(expected - expected.mean()).mean()
        assert noise < 0.2, method
        assert in_8_bits(made) == {str(i) for i in range(len(operators))}
        weights = [t for t in onnx.load_from_string(made).graph.initializer if t.name.endswith("_quantized")]
        assert any(t.data_type == onnx.TensorProto.INT8 for t in weights)
        assert onnxruntime.InferenceSession(made).get_modelmeta().custom_metadata_map["classes"] == "[]"


def test_the_first_attempt_that_is_accurate_enough_is_taken() -> None:
    data, _ = exported("relu")
    found = quantize(data, some_images(32), agreement(data), 60.0)
    assert (found.method, found.excluded, found.attempts) == ("minmax", (), 1)
    assert found.accuracy == agreement(data)(found.data) >= 60.0


@pytest.mark.parametrize(
    ("scores", "required", "expected"),
    [
        ([80, 89.5], 89, ("percentile", 0, 2, 89.5)),
        ([80, 85, 84, 86, 89.5], 89, ("percentile", 2, 5, 89.5)),
        ([80, 81, 84, 83, 83], 89, ("entropy", 0, 5, 84)),  # none will do: the best
        ([80, 81, 84, 83, 85], 89, ("entropy", 2, 5, 85)),
    ],
)
def test_what_is_tried_and_in_which_order(
    scores: list[float], required: float, expected: tuple[str, int, int, float]
) -> None:
    data, operators = exported("relu")
    assert len(operators) == 4  # so at most two are left out
    said = iter(scores)
    found = quantize(data, some_images(32), lambda model: next(said), required)
    assert (found.method, len(found.excluded), found.attempts, found.accuracy) == expected
    assert next(said, None) is None
    positions = [i for i, operator in enumerate(operators) if operator.key in found.excluded]
    assert in_8_bits(found.data) == {str(i) for i in range(4)} - {str(i) for i in positions}


def test_the_most_sensitive_operator_comes_first() -> None:
    data, _ = exported("relu")
    model = onnx.load_from_string(data)
    weight = next(t for t in model.graph.initializer if t.name == "2.project.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = 300.0  # takes all the range of its channel, and of the activations after it
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    assert by_sensitivity(model.SerializeToString(), some_images(32), 4)[0] in (2, 3)


def test_only_models_of_hwnas() -> None:
    data, _ = exported("relu")
    with pytest.raises(SpaceError, match="not a model that hwnas made"):
        quantize(quantized(data, some_images(16), "minmax"), some_images(16), lambda model: 0.0, 50.0)


def test_the_root_logger_and_standard_output_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    data, _ = exported("relu")
    handlers = list(logging.getLogger().handlers)
    quantized(data, some_images(16), "entropy")
    assert logging.getLogger().handlers == handlers
    assert capsys.readouterr() == ("", "")


CANDIDATE: dict[str, Any] = {
    "status": "candidate",
    "reason": "",
    "calibration": "minmax",
    "excluded": [],
    "validation_accuracy": {"fp32": 90.0, "int8": 89.5},
    "test_accuracy": {"fp32": 89.0, "int8": 88.0},
}


@pytest.mark.parametrize(
    ("speedup", "low", "status", "reason"),
    [
        (
            2.0,
            1.9,
            "kept",
            "2.00 times as fast (95 %: 1.90 to 3.00), 0.5 ms (0.4 to 0.6) instead of 1 ms (",
        ),
        (1.2, 0.9, "dropped", "not faster beyond doubt: 1.20 times as fast (95 %: 0.90 to 2.20), 0.8333 ms"),
        (0.5, 0.4, "dropped", "not faster beyond doubt: 0.50 times as fast"),
    ],
)
def test_only_what_is_faster_beyond_doubt_is_kept(
    speedup: float, low: float, status: str, reason: str
) -> None:
    comparison = Comparison(1.0, (0.9, 2.0), 1 / speedup, (0.4, 0.6), speedup, (low, speedup + 1))
    found = decide(CANDIDATE, comparison)
    assert found["status"] == status
    assert found["reason"].startswith(reason)
    assert found["latency_ms"] == {"fp32": 1.0, "int8": 1 / speedup}


@pytest.mark.parametrize("activation", ["relu", "hswish"])
def test_a_real_decision(activation: str) -> None:
    """On the real device either may come out."""
    data, _ = exported(activation)
    made = quantized(data, some_images(32), "minmax")
    found = compare({"model": (data, made)}, get_device("onnxruntime"), rounds=8)["model"]
    assert found.speedup_ci[0] <= found.speedup <= found.speedup_ci[1]
    assert (decide(CANDIDATE, found)["status"] == "kept") == (found.speedup_ci[0] > 1)


# ---- in a run ------------------------------------------------------------------------------------


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def a_device(fast: bool) -> FakeDevice:
    """A device on which what is quantised takes half as long, or twice as long."""

    def cost(model: onnx.ModelProto) -> int:
        in_8_bits = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        return (50_000 if fast else 200_000) if in_8_bits else 100_000

    return FakeDevice(cost)


def test_a_run_keeps_what_is_faster_and_says_why_the_rest_is_dropped(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = load_run(copy).outputs("search")["front"]
    overrides = {"export.int8": True, "export.max_accuracy_loss": 100.0}
    for fast, stage in ((False, "export"), (True, "verify")):
        device = a_device(fast)
        monkeypatch.setattr(pipeline.verify, "own_device", lambda run, device=device: device)
        run = hwnas.run(copy / "config.yaml", run_dir=copy, overrides=overrides, restart=stage)
        status = "kept" if fast else "dropped"
        for name in front:
            entry, folder = pipeline.read_entry(run, name), copy / "models" / name
            assert entry["int8"]["status"] == status
            assert entry["int8"]["test_accuracy"]["fp32"] == entry["test_accuracy"]
            assert entry["int8"]["reason"] in (folder / "README.md").read_text()
            subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
            assert ("model.int8.onnx" in (folder / "SHA256SUMS").read_text()) == fast
            assert (folder / "model.int8.onnx").exists() == fast
        assert {model["int8"]["status"] for model in run.models} == {status}
        with out.capture() as captured:
            out.print(models_table(run.models))
        assert ("0.0540" if fast else "dropped") in captured.get()
        assert {model["int8"]["status"] for model in choose(run, {})["models"]} == {status}
        shown = CliRunner().invoke(app, ["front", str(copy)]).stdout
        assert ("0.0540" if fast else "dropped") in shown
    said = onnxruntime.InferenceSession(folder / "model.int8.onnx").get_modelmeta().custom_metadata_map
    assert said["precision"] == "int8"
    assert float(said["test_accuracy"]) == entry["int8"]["test_accuracy"]["int8"]
    assert float(said["latency_ms"]) == entry["int8"]["latency_ms"]["int8"] == pytest.approx(0.054)
    assert "predicted_latency_ms" not in said
    predictors = [Predictor(folder / name) for name in ("model.onnx", "model.int8.onnx")]
    assert predictors[0].preparation == predictors[1].preparation
    assert predictors[0].classes == predictors[1].classes
    # Without it nothing of it is left.
    hwnas.run(copy / "config.yaml", run_dir=copy, overrides={"export.int8": False}, restart="export")
    assert not list(copy.glob("**/*int8*.onnx"))
    assert not list(copy.glob("int8/*"))


def test_a_real_run_in_8_bits(copy: Path) -> None:
    """Real data, calibration, accuracy and timing: whatever comes out, it is what the numbers say."""
    overrides = {"export.int8": True, "export.max_accuracy_loss": 3.0}
    run = hwnas.run(copy / "config.yaml", run_dir=copy, overrides=overrides, restart="export")
    for entry in run.models:
        int8 = entry["int8"]
        loss = int8["validation_accuracy"]["fp32"] - int8["validation_accuracy"]["int8"]
        assert abs(int8["validation_accuracy"]["fp32"] - entry["validation_accuracy"]) <= 0.51  # one of 200
        faster = int8["speedup_ci"] is not None and int8["speedup_ci"][0] > 1
        assert (int8["status"] == "kept") == bool(loss <= 3.0 and faster)
        assert (int8["latency_ms"] is None) == (loss > 3.0)


def test_models_that_lose_too_much_are_not_measured(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([90.0, *[50.0] * 100])  # the first is that of the model in single precision
    monkeypatch.setattr(module, "onnx_accuracy", lambda *_: next(accuracies))
    front = load_run(copy).outputs("search")["front"]
    job = load_run(copy, {"export.int8": True})
    pipeline.export_model(job, next(e.architecture for e in job.searched.front))
    int8 = pipeline.read_entry(job, front[0])["int8"]
    assert int8["status"] == "dropped"
    assert "costs 40.00 points of validation accuracy, the least of" in int8["reason"]
    assert "allowed are 1" in int8["reason"]
    assert int8["latency_ms"] is None
    assert not (copy / "int8").exists()
    assert int8["reason"] in (copy / "models" / front[0] / "README.md").read_text()


def test_a_device_that_runs_no_quantised_models_is_named_before_training(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_run(copy, {"export.int8": True})
    monkeypatch.setitem(job.table.runtime, "name", "torch")
    with pytest.raises(ConfigError, match="the runtime torch, which runs no quantised ONNX model"):
        pipeline.profile.check_int8(job)
