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
import torch
from typer.testing import CliRunner

import hwnas
from hwnas import finetuning, pipeline
from hwnas.choosing import choose
from hwnas.cli import app
from hwnas.config import parse_config
from hwnas.errors import ConfigError, EvaluationError, SpaceError, StoreError
from hwnas.export import quantize as module
from hwnas.export.compare import Comparison, compare
from hwnas.export.onnx import onnx_accuracy, onnx_logits
from hwnas.export.predict import Predictor
from hwnas.export.quantize import PrecisionEvaluator, by_sensitivity, decide, quantize
from hwnas.finetuning import finetune_model
from hwnas.latency.devices import get_device
from hwnas.networks.blocks import build_network, folded_weights
from hwnas.networks.quantization import METHODS, quantized
from hwnas.networks.supernet import Supernet
from hwnas.ops.onnx import onnx_model
from hwnas.pipeline import Run, load_run, open_run
from hwnas.progress import silent
from hwnas.spaces import Operator, get_space
from hwnas.store import read_json
from hwnas.training.evaluation import AccuracyEvaluator, Top1Result
from hwnas.verifying import verify_elsewhere
from tests.conftest import TINY, Command, write_config
from tests.latency.fakes import FakeDevice
from tests.networks.small_spaces import lively
from tests.training.small_data import blobs

pytestmark = pytest.mark.usefixtures("plain_reports")

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


def test_sensitive_operators_left_out_save_a_model() -> None:
    """Really: with one channel that takes all the range no calibration will do."""
    data, operators = exported("relu")
    model = onnx.load_from_string(data)
    for name, factor in (("1.expand.weight", 300.0), ("1.expand.bias", 300.0)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[0] *= factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    tensor = next(t for t in model.graph.initializer if t.name == "1.project.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:, 0] /= 300.0  # what that channel says stays what it was
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    data, images = model.SerializeToString(), some_images(100)
    expected = onnx_logits(data, images)

    def kept(model: bytes) -> float:
        """How much of the outputs' variation a model keeps, in percent."""
        noise = np.square(onnx_logits(model, images) - expected).mean()
        return 100 * (1 - float(noise / expected.var(axis=0).mean()))

    whole = max(kept(quantized(data, some_images(32), method)) for method in METHODS)
    found = quantize(data, some_images(32), kept, 95.0)
    assert whole < 90
    assert found.accuracy >= 95
    assert operators[1].key in found.excluded
    assert found.attempts > len(METHODS)


def test_an_attempt_whose_outputs_are_not_finite_has_failed() -> None:
    data, _ = exported("relu")
    outcomes: Any = iter([EvaluationError("the outputs are NaN"), 40.0, EvaluationError("NaN"), 60.0])

    def accuracy(model: bytes) -> float:
        outcome = next(outcomes)
        if isinstance(outcome, EvaluationError):
            raise outcome
        return float(outcome)

    found = quantize(data, some_images(32), accuracy, 50.0)
    assert (found.accuracy, found.attempts) == (60.0, 4)
    outcomes = iter([EvaluationError("the outputs are NaN")] * 5)
    with pytest.raises(EvaluationError, match="are NaN or infinite in all 5 attempts to quantise"):
        quantize(data, some_images(32), accuracy, 50.0)


def broken(data: bytes, value: float) -> bytes:
    """A model with a weight that is not finite."""
    model = onnx.load_from_string(data)
    weight = next(t for t in model.graph.initializer if t.name == "2.project.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] = value
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return model.SerializeToString()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_outputs_are_not_finite_is_not_quantised(value: float) -> None:
    data, _ = exported("relu")
    message = (
        "in single precision on the calibration images: the outputs for 32 of 32 images are NaN or infinite"
    )
    with pytest.raises(EvaluationError, match=message):
        quantize(broken(data, value), some_images(32), lambda model: 90.0, 50.0)


def test_networks_in_8_bits_with_outputs_that_are_not_finite_fail() -> None:
    space = get_space(
        "mobilenetv3",
        resolutions=(16,),
        channels=1,
        classes=3,
        stem={"width": 8, "activation": "relu"},
        stages=[{**STAGES["relu"], "activation": "relu"}],
        head={"width": 24, "activation": "relu"},
        precisions=("fp32", "int8"),
    )
    net = Supernet(space)
    evaluator = PrecisionEvaluator(AccuracyEvaluator(net, blobs(seed=1), blobs(60, seed=2), 32), seed=0)
    archs = [space.architecture({"stage1.depth": 2, "precision": name}) for name in ("fp32", "int8")]
    assert evaluator(archs).shape == (2,)
    with torch.no_grad():
        net.op("stage1.layer2", "project").weight("conv.weight").fill_(float("inf"))
    for arch in archs:
        with pytest.raises(EvaluationError, match=r"outputs for .* images are NaN or infinite"):
            evaluator([arch])


def test_a_model_without_a_candidate_in_8_bits_is_exported(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = load_run(copy, {"export.int8": True})
    arch = next(e.architecture for e in job.searched.front)
    monkeypatch.setattr(module, "quantized", lambda data, *_: broken_in_8_bits(data))
    pipeline.export_model(job, arch)
    assert pipeline.read_entry(job, arch.id)["int8"] is None
    assert not (copy / "int8" / f"{arch.id}.onnx").exists()
    assert (
        f"model {arch.id} has no candidate in 8 bits: the outputs are NaN or infinite in all" in caplog.text
    )


def broken_in_8_bits(data: bytes) -> bytes:
    """The model with a last bias that is not finite, in place of one in 8 bits."""
    model = onnx.load_from_string(data)
    bias = [t for t in model.graph.initializer if t.name.endswith("bias")][-1]
    values = np.full_like(onnx.numpy_helper.to_array(bias), np.nan)
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    return model.SerializeToString()


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
    "attempts": 1,
    "max_accuracy_loss": 1.0,
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
    assert found["reason"].startswith("costs 0.50 points of validation accuracy; " + reason)
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
    """A device on which deeper networks take longer, and what is quantised half as long, or twice as long."""

    def cost(model: onnx.ModelProto) -> int:
        kinds = [node.op_type for node in model.graph.node]
        whole = 10_000 * (kinds.count("Conv") + kinds.count("Gemm"))
        return (whole // 2 if fast else 2 * whole) if "QuantizeLinear" in kinds else whole

    return FakeDevice(cost)


def run_in_8_bits(
    folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch, fast: bool, allowed: float = 100.0
) -> Run:
    """The run in a folder with models in 8 bits, made again from a stage on, on a device of known costs."""
    device = a_device(fast)
    monkeypatch.setattr(pipeline.verify, "own_device", lambda run: device)
    overrides = {"export.int8": True, "export.max_accuracy_loss": allowed}
    return hwnas.run(folder / "config.yaml", run_dir=folder, overrides=overrides, restart=stage)


def test_what_is_not_faster_is_dropped_and_says_why(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in_8_bits(copy, "export", monkeypatch, fast=False)
    for name in run.outputs("search")["front"]:
        entry, card = pipeline.read_entry(run, name), (copy / "models" / name / "README.md").read_text()
        int8 = entry["int8"]
        assert int8["status"] == "dropped"
        assert int8["test_accuracy"]["fp32"] == entry["test_accuracy"]
        assert int8["latency_ms"]["int8"] == pytest.approx(2 * int8["latency_ms"]["fp32"], rel=0.1)
        assert "not faster beyond doubt: 0.5" in int8["reason"]
        assert int8["reason"] in card
        assert f"| In 8 bits | dropped: {int8['reason']}" in card
    assert all(model["precision"] == "fp32" for model in run.models)
    assert not list(copy.glob("models/*-int8"))
    shown = CliRunner().invoke(app, ["front", str(copy)]).stdout
    assert "Dropped in 8 bits, the README.md of each says why: " in shown
    assert f"{choose(run, {})['models'][0]['id']} (0.5" in shown


def test_what_is_faster_is_a_model_of_its_own(
    copy: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command, tmp_path: Path
) -> None:
    run = run_in_8_bits(copy, "export", monkeypatch, fast=True)
    models = {model["id"]: model for model in run.models}
    small = {name: model for name, model in models.items() if model["precision"] == "int8"}
    assert small
    for name, model in small.items():
        parent, folder = models[name.removesuffix("-int8")], copy / "models" / name  # it stays beside it
        assert parent["precision"] == "fp32"
        assert parent["int8"]["status"] == "kept"
        assert model["quantized"]["from"] == parent["id"]
        assert model["architecture"] == parent["architecture"]
        assert model["test_accuracy"] == parent["int8"]["test_accuracy"]["int8"]
        assert model["validation_accuracy"] == parent["int8"]["validation_accuracy"]["int8"]
        assert model["measured"]["latency_ms"] == model["verifications"][-1]["latency_ms"]
        assert model["measured"]["latency_ms"] < parent["measured"]["latency_ms"]
        assert model["status"] in ("verified", "unstable")
        assert model["budget_ms"] == 1000.0
        entry = read_json(folder / "architecture.json")
        assert {key: entry[key] for key in model} == model
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
        said = onnxruntime.InferenceSession(folder / "model.onnx").get_modelmeta().custom_metadata_map
        assert (said["id"], said["precision"]) == (name, "int8")
        assert float(said["test_accuracy"]) == model["test_accuracy"]
        assert float(said["latency_ms"]) == model["measured"]["latency_ms"]
        assert "predicted_latency_ms" not in said
        for split in ("validation", "test"):
            classes = model["class_accuracy"][split].values()
            assert sum(counts["correct"] for counts in classes) / 2 == model[f"{split}_accuracy"]
        predictors = [Predictor(path) for path in (folder, copy / "models" / parent["id"])]
        assert predictors[0].preparation == predictors[1].preparation
        assert predictors[0].classes == predictors[1].classes
        with pytest.raises(
            StoreError, match=f"in 8 bits.* the network that it is made of is .*{parent['id']}"
        ):
            hwnas.load_model(folder)
        card = (folder / "README.md").read_text()
        assert f"| In 8 bits | made of model {parent['id']}, 1." in card
        assert "load_model" not in card
    # Half the time for no great loss: the front is of these, and budgets are met by them.
    front = {row["id"]: row for row in choose(run, {})["models"]}
    assert {row["precision"] for row in front.values()} >= {"int8"}
    best = max(models.values(), key=lambda m: (m["validation_accuracy"], -m["measured"]["latency_ms"]))
    (budget,) = run.summary()["budgets"]
    assert budget["model"] == best["id"]
    name, model = next(iter(small.items()))
    code, said, _ = hwnas_command("front", copy, "--max-latency-ms", model["measured"]["latency_ms"])
    assert code == 0
    assert name in said
    code, said, _ = hwnas_command("finetune", copy, "--model", name, "--epochs", 1)
    assert code == 1
    # Verified anew its history goes on; no longer faster, it is gone; without, nothing of it is left.
    again = run_in_8_bits(copy, "verify", monkeypatch, fast=True)
    assert {len(model["verifications"]) for model in again.models if model["id"] in small} == {2}
    elsewhere = verify_elsewhere(again, "other", a_device(fast=True))
    assert name in {row["id"] for row in elsewhere["models"]}
    assert "latency_ms@other" in pipeline.read_entry(again, name)["measured"]
    run_in_8_bits(copy, "verify", monkeypatch, fast=False)
    assert not list(copy.glob("models/*-int8"))
    run_in_8_bits(copy, "verify", monkeypatch, fast=True)
    hwnas.run(copy / "config.yaml", run_dir=copy, overrides={"export.int8": False}, restart="export")
    assert not list(copy.glob("**/*int8*/*"))


def test_a_fine_tuned_model_may_be_one_in_8_bits(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_in_8_bits(copy, "export", monkeypatch, fast=True)
    monkeypatch.setattr(finetuning, "own_device", lambda run: a_device(fast=True))
    model = run.outputs("search")["front"][0]
    for _ in range(2):  # and made anew
        finetune_model(load_run(copy), model, 1, again=True)
        models = {row["id"]: row for row in load_run(copy).models}
        tuned = models[f"{model}-ft1-int8"]
        assert tuned["quantized"]["from"] == f"{model}-ft1"
        assert tuned["status"] in ("verified", "unstable")
        assert len(tuned["verifications"]) == 1
    again = run_in_8_bits(copy, "verify", monkeypatch, fast=True)
    assert f"{model}-ft1" in {row["id"] for row in again.models}
    assert (copy / "models" / f"{model}-ft1-int8" / "model.onnx").exists()


@pytest.fixture
def in_hswish(tmp_path: Path) -> Path:
    """A small real run in a space with the activation h-swish and squeeze-and-excite."""
    small = {"block": "mbconv", "width": 16, "depth": [1, 2], "kernel": 3, "expand": 3, "se": True}
    space = {
        "name": "mobilenetv3",
        "resolutions": [16],
        "stem": {"width": 8},
        "stages": [{**small, "activation": "hswish", "stride": 2}],
        "head": {"width": 48},
    }
    changes = {"latency": {"rounds": 4, "calibration_networks": 3, "held_out_networks": 3}}
    search = {"evaluations": 2, "random_baseline": False}
    training = {"steps": 150, "learning_rate": 0.2}
    config = write_config(tmp_path, space=space, search=search, training=training, **changes)
    run = open_run(config, run_dir=tmp_path / "run")
    run.make(["profile", "train", "search"])
    return run.directory


@pytest.mark.parametrize("space", ["copy", "in_hswish"])
def test_a_real_decision_in_a_real_run(space: str, request: pytest.FixtureRequest) -> None:
    """Real data, calibration, accuracy and timing: whatever comes out, it is what the numbers say."""
    folder = request.getfixturevalue(space)
    overrides = {"export.int8": True, "export.max_accuracy_loss": 2.0}
    run = hwnas.run(folder / "config.yaml", run_dir=folder, overrides=overrides, restart="export")
    for name in run.outputs("search")["front"]:
        entry = pipeline.read_entry(run, name)
        int8, accuracy = entry["int8"], entry["int8"]["validation_accuracy"]
        assert abs(accuracy["fp32"] - entry["validation_accuracy"]) <= 0.51  # one of 200
        made = (folder / "int8" / f"{name}.onnx").read_bytes()
        assert in_8_bits(made)
        size = run.space.resolution(run.space.architecture(entry["architecture"]))
        for split in ("validation", "test"):
            assert onnx_accuracy(made, run.data(split).batches(50, size)) == int8[f"{split}_accuracy"]["int8"]
        accurate, faster = accuracy["fp32"] - accuracy["int8"] <= 2.0, int8["speedup_ci"][0] > 1
        assert (int8["status"] == "kept") == (accurate and faster)
        assert (folder / "models" / f"{name}-int8").exists() == (accurate and faster)
        assert ("allowed are 2" in int8["reason"]) == (not accurate)
        assert ("not faster beyond doubt" in int8["reason"]) == (not faster)
        assert (
            int8["attempts"] == 1 or not accurate or (int8["calibration"], int8["excluded"]) != ("minmax", [])
        )
        card = (folder / "models" / name / "README.md").read_text()
        assert int8["reason"] in card
        assert all(f"{int8['latency_ms'][precision]:.4g} ms (" in card for precision in ("int8", "fp32"))


def test_what_loses_too_much_is_measured_and_dropped(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([90.0, *[50.0] * 100])  # the first is that of the model in single precision
    monkeypatch.setattr(
        module, "onnx_top1", lambda *_: Top1Result(np.arange(100) < next(accuracies), np.zeros(100, int))
    )
    job = load_run(copy, {"export.int8": True})
    name = job.outputs("search")["front"][0]
    pipeline.export_model(job, next(e.architecture for e in job.searched.front))
    int8 = pipeline.read_entry(job, name)["int8"]
    assert (int8["status"], int8["latency_ms"]) == ("candidate", None)
    assert "| In 8 bits | not measured yet. Validation" in (copy / "models" / name / "README.md").read_text()
    (entry,) = pipeline.measure_entries(job, [name], a_device(fast=True), silent)
    int8 = entry["int8"]
    assert int8["status"] == "dropped"
    assert int8["reason"].startswith("costs 40.00 points of validation accuracy, the least of")
    assert "; allowed are 1; 1." in int8["reason"]
    assert int8["latency_ms"]["int8"] < int8["latency_ms"]["fp32"]


def test_objectives_that_say_nothing_of_8_bits_are_refused() -> None:
    tables = {"latency": {"further_tables": {"pi": "pi.json"}}, "export": {"int8": True}}
    search = {"objectives": ["accuracy", "latency_ms", "latency_ms@pi"]}
    with pytest.raises(ConfigError, match="a table says nothing of latency_ms@pi of a model in 8 bits"):
        parse_config({**TINY, **tables, "search": search})


def test_a_device_that_runs_no_quantised_models_is_named_before_training(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_run(copy, {"export.int8": True})
    monkeypatch.setitem(job.table.runtime, "name", "torch")
    with pytest.raises(ConfigError, match="the runtime torch, which runs no quantised ONNX model"):
        pipeline.profile.check_int8(job)
