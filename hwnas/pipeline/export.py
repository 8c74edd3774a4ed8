"""Export: the searched front as plain networks and as ONNX, equal to torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.export.sums import SUMS_FILE
from hwnas.pipeline.entries import check_data, costs_of, model_folder, write_entry
from hwnas.pipeline.profile import check_int8
from hwnas.pipeline.quantized import candidate_file, forget_int8, quantize_model
from hwnas.progress import Progress
from hwnas.spaces import Architecture
from hwnas.store import remove_file, write_bytes, write_text

if TYPE_CHECKING:  # torch is loaded by the stages that need it
    from hwnas.networks.blocks import StaticNetwork
    from hwnas.pipeline.job import Run


OPTIONAL = ("model.xml", "model.bin")  # of a model's files, made where they are asked for
CHECKED_IMAGES = 64  # real images on which every export is compared with torch


def inputs(run: Run) -> dict[str, Any]:
    done = run.store.stage("export")
    recorded = done is None or "test_images" in done["inputs"]  # older runs do not record them
    return {
        "supernet": run.outputs("train")["checksum"],
        "front": run.outputs("search")["front"],
        "export": run.config.export.model_dump(),
        **({"test_images": run.data("test").checksum} if recorded else {}),
    }


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check the data, the supernet, and that the device can run the models.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command.
        again: Whether the models are exported before.
    """
    check_data(run)
    if not pending:
        check_int8(run)
        run.judge  # noqa: B018 (reads the supernet)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    front = [evaluation.architecture for evaluation in run.searched.front]
    for done, arch in enumerate(front):
        progress(done, len(front), arch.id)
        export_model(run, arch)
    progress(len(front), len(front), "")
    write_text(run.directory / "evaluations.csv", run.evaluations().to_csv(index=False))
    names = ("model.onnx", "model.json", "model.safetensors")
    files = [f"models/{arch.id}/{name}" for arch in front for name in names]
    optional = [candidate_file(arch.id) for arch in front]
    optional += [f"models/{arch.id}/{name}" for arch in front for name in OPTIONAL]
    files += [name for name in optional if (run.directory / name).exists()]
    return {}, ["evaluations.csv", *files]


def export_model(
    run: Run,
    arch: Architecture,
    network: StaticNetwork | None = None,
    changes: Mapping[str, Any] | None = None,
) -> None:
    """models/<id>/ of one architecture: its network, plain and as ONNX, and its entry, not yet measured.

    `network` is another one of it than that of inherited weights, `changes` what its entry says otherwise.
    ExportError if ONNX Runtime's outputs on images of the test split or its test accuracy are not torch's;
    of an architecture in 8 bits the outputs are compared before it is quantised, its accuracy is stated.
    EvaluationError if outputs on the test split are NaN or infinite.
    """
    from hwnas.export.checks import check_accuracy, check_outputs, top1_by
    from hwnas.export.folder import save_model
    from hwnas.export.metadata import input_facts, properties
    from hwnas.export.onnx import check_onnx, onnx_top1, with_metadata
    from hwnas.export.quantize import PrecisionEvaluator
    from hwnas.networks.blocks import folded_weights
    from hwnas.ops.onnx import onnx_model
    from hwnas.training.data import resize
    from hwnas.training.evaluation import EVALUATION_BATCH, top1_of

    test, name = run.data("test"), arch.id if changes is None else str(changes["id"])
    resolution, precision = run.space.resolution(arch), run.space.precision(arch)
    if network is None:
        network = run.supernet.extract(arch, run.evaluator.statistics(arch))
    batch_size = run.config.latency.batch_size
    data = onnx_model(network.network, folded_weights(network), batch_size).SerializeToString()
    expected = top1_of(network, test, f"model {name}").accuracy
    images, _ = next(test.stream([np.arange(min(CHECKED_IMAGES, len(test)))]))
    images = resize(images, resolution)
    difference = check_onnx(data, network, images)
    if precision == "int8":
        assert isinstance(run.judge, PrecisionEvaluator)
        data = run.judge.quantized(data, resolution)
    batches = test.batches(EVALUATION_BATCH, resolution)
    tested = onnx_top1(data, batches, f"model {name} by ONNX Runtime on {test.title}")
    validation = run.data("validation")
    if precision == "fp32":
        check_accuracy(tested.accuracy, expected, len(test), f"ONNX Runtime, model {name},")
        validated = top1_of(network, validation, f"model {name}")
    else:
        batches = validation.batches(EVALUATION_BATCH, resolution)
        validated = onnx_top1(data, batches, f"model {name} by ONNX Runtime on {validation.title}")
    metrics = next(e.metrics for e in run.searched.evaluations if e.architecture == arch)
    predicted = run.predicted_accuracy[arch.id]
    checks: dict[str, Any] = {
        "images": len(images),
        "difference": difference,
        "torch_test_accuracy": expected,
    }
    entry = {
        "id": name,
        "architecture": arch.values,
        "precision": precision,
        "validation_accuracy": metrics["accuracy"],
        "test_accuracy": tested.accuracy,
        "class_accuracy": {
            "validation": validated.by_class(test.classes),
            "test": tested.by_class(test.classes),
        },
        "predicted": {
            "accuracy": None if np.isnan(predicted) else predicted,
            "latency_ms": metrics["latency_ms"],
            **{metric: float(table.latency_ms([arch])[0]) for metric, table in run.further_tables.items()},
        },
        "measured": {"latency_ms": None, "latency_ci_ms": None},
        **costs_of(run, arch, precision),
        "budget_ms": None,
        "checks": checks,
        "int8": None,
        "status": "exported",
        **(changes or {}),
    }
    folder, inputs = model_folder(run, name), input_facts(test, network.input_shape)
    facts = {"id": name, "architecture": arch.values, "input": inputs, "classes": list(test.classes)}
    remove_file(folder / SUMS_FILE)  # written last: with it a folder is whole
    save_model(network, folder, facts)
    said = properties(entry, inputs, test.classes, run.latency.device, run.latency.runtime)
    data = with_metadata(data, said)
    write_bytes(folder / "model.onnx", data)
    for stale in OPTIONAL:
        remove_file(folder / stale)
    forget_int8(run, name)
    if run.config.export.openvino and precision == "fp32":
        from hwnas.export.openvino import export_openvino, openvino_logits

        export_openvino(data, folder)
        logits, runtime = openvino_logits(folder), f"OpenVINO, model {name},"
        batches = test.batches(EVALUATION_BATCH, resolution)
        found = top1_by(logits, batches, f"model {name} by OpenVINO on {test.title}").accuracy
        check_accuracy(found, expected, len(test), runtime)
        difference = check_outputs(logits, network, images, runtime)
        checks["openvino"] = {"difference": difference, "test_accuracy": found}
    if run.config.export.int8 and precision == "fp32":
        entry["int8"] = quantize_model(run, name, data, resolution)
    write_entry(run, entry)
