"""What the same networks cost in single precision and in 8 bits, by ONNX Runtime and by OpenVINO.

    python benchmarks/export.py runs/digits [--models 3] [--resolution 224] [--rounds 24] [--passes 6]

Models of a run's front, spread over it, and one network of the Once-for-All space with random weights, of
which only the time means something. One thread. In each pass the runtimes take turns in random order, each
with fresh sessions in which all models are visited in shuffled rounds. A ratio is that of a model's latencies
in one pass, to ONNX Runtime in single precision; its 95 % interval is Student's over passes. Accuracies are
those on the test split, by that runtime.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np

from hwnas.errors import MissingExtraError
from hwnas.export.checks import accuracy_by
from hwnas.export.onnx import onnx_accuracy
from hwnas.export.openvino import export_openvino, openvino_logits
from hwnas.export.quantize import CALIBRATION_IMAGES
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device, time_models
from hwnas.latency.together import geometric_mean
from hwnas.networks.quantization import quantized
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.pipeline import Run, load_run
from hwnas.spaces import get_space

REFERENCE = ("onnxruntime", "fp32")
PRECISIONS = ("fp32", "int8")


def devices() -> dict[str, Device]:
    found = {}
    for name in ("onnxruntime", "openvino"):
        try:
            found[name] = get_device(name)
        except MissingExtraError as error:
            print(f"without {name}: {error}")
    return found


def models_of(run: Run, n: int) -> dict[str, tuple[bytes, bytes]]:
    """n models of a run's front in both precisions, by id with MACs, from the fastest to the slowest."""
    entries = [entry for entry in run.models if entry.get("precision", "fp32") == "fp32"]
    found = {}
    for i in np.unique(np.linspace(0, len(entries) - 1, n).round().astype(int)):
        entry = entries[i]
        data = (run.directory / "models" / entry["id"] / "model.onnx").read_bytes()
        size = run.space.resolution(run.space.architecture(entry["architecture"]))
        drawn = run.data("train").subset(CALIBRATION_IMAGES, run.config.seed).batches(256, size)
        images = np.concatenate([batch.numpy() for batch, _ in drawn])
        found[f"{entry['id']}, {entry['macs'] / 1e6:.2f} MMACs"] = data, quantized(data, images, "minmax")
    return found


def untrained(resolution: int) -> dict[str, tuple[bytes, bytes]]:
    """A network of the Once-for-All space with random weights."""
    space = get_space("mobilenetv3", resolutions=(resolution,))
    arch = space.sample(1, 0)[0]
    operators, rng = space.operators(arch), np.random.default_rng(0)
    weights = [random_weights(operator, rng) for operator in operators]
    data = onnx_model(operators, weights).SerializeToString()
    images = rng.standard_normal((4, *operators[0].in_shape), dtype=np.float32)
    macs = space.macs([arch])[0] / 1e6
    return {f"MobileNetV3, {macs:.0f} MMACs at {resolution} px": (data, quantized(data, images, "minmax"))}


def accuracy(run: Run, runtime: str, data: bytes, size: int) -> float:
    """Percent of the test split."""
    batches = run.data("test").batches(256, size)
    if runtime == "onnxruntime":
        return onnx_accuracy(data, batches)
    with tempfile.TemporaryDirectory() as folder:
        export_openvino(data, folder)
        return accuracy_by(openvino_logits(folder), batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--passes", type=int, default=6)
    arguments = parser.parse_args()
    run, known = load_run(arguments.run), devices()
    trained = models_of(run, arguments.models)
    pairs = {**trained, **untrained(arguments.resolution)}
    for device in known.values():
        print(device.identity.device["cpu"], device.identity.runtime)

    ms: dict[tuple[str, str], list[list[float]]] = {(d, p): [] for d in known for p in PRECISIONS}
    preempted, order = [], np.random.default_rng(0)
    for number in range(arguments.passes):
        for name in order.permutation(list(known)):
            models = [model for pair in pairs.values() for model in pair]
            timings = time_models(models, known[name], arguments.rounds, number)
            preempted += [timing.preempted for timing in timings]
            for i, precision in enumerate(PRECISIONS):
                ms[name, precision].append([timing.ms for timing in timings[i::2]])
    print(f"{100 * np.mean(preempted):.1f} % of runs preempted")

    reference = np.array(ms[REFERENCE])  # (passes, models)
    for i, (name, pair) in enumerate(pairs.items()):
        print(name)
        for (runtime, precision), rows in ms.items():
            latency = np.array(rows)[:, i]
            ratio, (low, high) = geometric_mean(np.log(latency / reference[:, i]).tolist())
            text = (
                f"  {runtime:12}{precision}  {latency.mean():.4g} ms, {ratio:.3f} ({low:.3f} to {high:.3f})"
            )
            if name in trained:
                entry = next(entry for entry in run.models if name.startswith(f"{entry['id']},"))
                size = run.space.resolution(run.space.architecture(entry["architecture"]))
                text += f", test {accuracy(run, runtime, pair[PRECISIONS.index(precision)], size):.2f} %"
            print(text)


if __name__ == "__main__":
    main()
