"""Compare the behaviour of two revisions of hwnas on one machine.

python benchmarks/compare_revisions.py BEFORE AFTER [--work DIR]

Each revision is checked out into a folder of its own and observed in a process of its own, with one thread
and in fp32. The observations use public names, commands and files only:

- spaces: sampled architectures, operator keys, features, MACs, parameters and bytes
- predictors: mean and standard deviation after a fit on the same rows
- searches: the sequence of evaluated architectures and their metrics, for each strategy
- tables: the latencies that the shipped tables give
- a run: weights after 20 training steps, evaluations, entries, and the graph of one exported model
- old runs: AFTER shows the front of the run that BEFORE made, and extends its search by 10 evaluations

Weights and outputs may differ by 1e-6; everything else must be equal. The script prints one line per
observation and exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WEIGHT_TOLERANCE = 1e-6
ROOT = Path(__file__).resolve().parents[1]
DIGITS_TABLE = "latency_tables/amd-epyc-1-thread-digits.json"
TABLES = {
    DIGITS_TABLE: "digits",
    "latency_tables/amd-epyc-1-thread-ofa-mobilenetv3.json": "mobilenetv3",
    "latency_tables/i7-8700k-ofa-mobilenetv3.json": "mobilenetv3",
}
# The digits experiment, short, and with a shipped table so that no latency is measured.
SETTINGS = (
    "data.train=1200",
    "data.validation=300",
    "data.test=300",
    "training.steps=20",
    "training.precision=fp32",
    "training.threads=1",
    "search.evaluations=40",
    "search.random_baseline=false",
    "search.calibration_images=128",
    f"latency.table={DIGITS_TABLE}",
)
# Facts of an entry that depend on the clock or on the folder of the run.
VOLATILE = {"measured", "latency_ms", "latency_ci_ms", "date", "status", "verifications", "model"}


# ---- observing one revision, in its own process ---------------------------------------------------


def spaces() -> dict[str, Any]:
    """The spaces that are observed, by name."""
    import hwnas

    digits = hwnas.load_config("configs/digits.yaml").space.parameters
    return {
        "mobilenetv3": hwnas.get_space("mobilenetv3", resolutions=(128, 160, 192, 224)),
        "proxyless": hwnas.get_space("proxyless"),
        "resnet50": hwnas.get_space("resnet50"),
        "digits": hwnas.get_space("mobilenetv3", classes=10, channels=1, **digits),
        "digits-int8": hwnas.get_space(
            "mobilenetv3", classes=10, channels=1, precisions=("fp32", "int8"), **digits
        ),
    }


def observe_spaces() -> dict[str, Any]:
    """Samples, keys, costs and features of each space."""
    observations: dict[str, Any] = {}
    for name, space in spaces().items():
        archs = space.sample(100, rng=0)
        observations[f"space/{name}/ids"] = [arch.id for arch in archs]
        observations[f"space/{name}/values"] = [arch.values for arch in archs[:10]]
        observations[f"space/{name}/keys"] = [[op.key for op in space.operators(arch)] for arch in archs[:20]]
        for cost in ("macs", "params", "model_bytes", "peak_activation_bytes"):
            observations[f"space/{name}/{cost}"] = np.asarray(getattr(space, cost)(archs)).tolist()
        observations[f"space/{name}/features"] = np.asarray(space.features(archs[:20])).tolist()
    return observations


def observe_predictors() -> dict[str, Any]:
    """Predictions of each predictor after a fit on 60 rows."""
    from hwnas.predictors import PREDICTORS, get_predictor

    space = spaces()["digits"]
    archs = space.sample(120, rng=1)
    features = np.asarray(space.features(archs), dtype=np.float64)
    targets = np.log(np.asarray(space.macs(archs), dtype=np.float64))
    observations: dict[str, Any] = {}
    for name in PREDICTORS:
        predictor = get_predictor(name, 0)
        predictor.fit(features[:60], targets[:60])
        mean, deviation = predictor.predict(features[60:])
        observations[f"predictor/{name}/mean"] = np.asarray(mean).tolist()
        observations[f"predictor/{name}/std"] = np.asarray(deviation).tolist()
    return observations


def observe_searches() -> dict[str, Any]:
    """The evaluated architectures of each strategy, in order, on a space with and without conditions."""
    import hwnas

    macro = hwnas.SearchSpace(
        "macro", [hwnas.Choice(f"layer{i}", ("skip", "k3e3", "k5e6")) for i in range(8)]
    )
    weights = {"skip": 0.0, "k3e3": 1.0, "k5e6": 1.7}

    def cost(archs: Sequence[Any]) -> list[float]:
        return [sum(weights[v] * (1 + i % 3) for i, v in enumerate(a.values.values())) for a in archs]

    def quality(archs: Sequence[Any]) -> list[float]:
        return [
            float(90 - 40 / (1 + c) - 0.1 * (int(a.id[:4], 16) % 7))
            for a, c in zip(archs, cost(archs), strict=True)
        ]

    digits = spaces()["digits"]

    def macs(archs: Any) -> Any:
        return np.asarray(digits.macs(archs), dtype=np.float64) / 1e6

    def accuracy(archs: Any) -> Any:
        return 95 - 10 / (0.2 + macs(archs)) ** 0.5

    problems: dict[str, tuple[Any, Any, Any, float]] = {
        "macro": (macro, quality, cost, 14.0),
        "digits": (digits, accuracy, macs, 4.0),
    }
    observations: dict[str, Any] = {}
    for problem, (space, evaluate, cheap, limit) in problems.items():
        for strategy in ("random", "nsga2", "linas"):
            result = hwnas.search(
                space,
                objectives=[
                    hwnas.Objective("quality", "max", evaluate=evaluate, expensive=True),
                    hwnas.Objective("cost", "min", evaluate=cheap),
                ],
                constraints=[hwnas.Constraint("cost", upper=limit)],
                strategy=strategy,
                evaluations=60,
                seed=3,
            )
            observations[f"search/{problem}/{strategy}/ids"] = [e.architecture.id for e in result.evaluations]
            observations[f"search/{problem}/{strategy}/metrics"] = [
                [e.metrics["quality"], e.metrics["cost"]] for e in result.evaluations
            ]
    return observations


def observe_tables() -> dict[str, Any]:
    """Latencies in milliseconds that the shipped tables give for 100 architectures."""
    import hwnas

    known = {**spaces(), "mobilenetv3": hwnas.get_space("mobilenetv3")}
    observations: dict[str, Any] = {}
    for file, space in TABLES.items():
        archs = known[space].sample(100, rng=2)
        observations[f"table/{Path(file).stem}"] = hwnas.LatencyTable.load(file).latency_ms(archs).tolist()
    return observations


def command(*arguments: str) -> str:
    """Standard output of a hwnas command; its exit codes 0 and 3 are successes."""
    result = subprocess.run(
        [sys.executable, "-m", "hwnas", *arguments], capture_output=True, text=True, check=False
    )
    if result.returncode not in (0, 3):
        raise SystemExit(f"hwnas {' '.join(arguments)} exited with {result.returncode}:\n{result.stderr}")
    return result.stdout


def observe_run(folder: Path) -> dict[str, Any]:
    """A short run of the digits experiment: its evaluations, its entries and one exported graph."""
    run = str(folder / "run")
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    for stage in ("profile", "train"):
        command(stage, "configs/digits.yaml", "--run-dir", run, *settings)
    command("search", run)
    command("export", run)
    return read_run(folder / "run")


def read_run(run: Path) -> dict[str, Any]:
    """Evaluations, entries and the first model's graph of an exported run."""
    front = json.loads(command("front", str(run), "--json"))
    with (run / "evaluations.csv").open() as file:
        rows = list(csv.DictReader(file))
    entries = [json.loads(path.read_text()) for path in sorted((run / "models").glob("*/architecture.json"))]
    model = min((run / "models").glob("*/model.onnx"))
    return {
        "run/front": [dict(sorted(flatten(row, VOLATILE))) for row in front["models"]],
        "run/evaluations": rows,
        "run/entries": [dict(sorted(flatten(entry, VOLATILE))) for entry in entries],
        "run/graph": graph_of(model),
        "run/operators": operators_of(model),
    }


def flatten(data: Any, left_out: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted key, value) pairs, without the keys that are left out."""
    if not isinstance(data, Mapping):
        yield prefix.removesuffix("."), data
        return
    for key, value in data.items():
        if key not in left_out:
            yield from flatten(value, left_out, f"{prefix}{key}.")


def graph_of(path: Path) -> list[Any]:
    """An ONNX graph up to names: each node with its attributes and the numbers of its inputs.

    Inputs are numbered in the order in which they first appear; initializers are written as their shape.
    """
    import onnx

    model = onnx.load(path)
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    numbers: dict[str, int] = {}

    def reference(name: str) -> Any:
        return shapes[name] if name in shapes else numbers.setdefault(name, len(numbers))

    nodes = []
    for node in model.graph.node:
        attributes = sorted((a.name, str(onnx.helper.get_attribute_value(a))) for a in node.attribute)
        inputs = [reference(name) for name in node.input]
        nodes.append([node.op_type, attributes, inputs, [reference(name) for name in node.output]])
    return nodes


def operators_of(path: Path) -> Any:
    """The operator keys in the properties of an exported model."""
    import onnx

    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}.get("operators")


def observe_old_run(run: Path) -> dict[str, Any]:
    """What a run that an earlier revision made shows, and its search after 10 more evaluations."""
    before = json.loads(command("front", str(run), "--json"))
    command("search", str(run), "--evaluations", "+10")
    command("export", str(run))
    return {
        "old-run/front": [dict(sorted(flatten(row, VOLATILE))) for row in before["models"]],
        **{name.replace("run/", "old-run/extended/"): value for name, value in read_run(run).items()},
    }


def observe(folder: Path, old_run: Path) -> None:
    """Write the observations of the revision in the current folder into `folder`."""
    observations = {
        **observe_spaces(),
        **observe_predictors(),
        **observe_searches(),
        **observe_tables(),
        **observe_run(folder),
    }
    if not old_run.exists():  # BEFORE extends a copy of its own run, as AFTER does
        shutil.copytree(folder / "run", old_run)
    extended = folder / "extended"
    shutil.copytree(old_run, extended)
    observations |= observe_old_run(extended)
    (folder / "observations.json").write_text(json.dumps(observations, indent=1))


# ---- comparing ------------------------------------------------------------------------------------


def differences(before: Any, after: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """The places where two observations differ, in words."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after:
                yield f"{where}.{key} is only in {'AFTER' if key in after else 'BEFORE'}"
            else:
                yield from differences(before[key], after[key], tolerance, f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{where} has {len(before)} values, then {len(after)}"
            return
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, tolerance, f"{where}[{i}]")
    elif isinstance(before, float) and isinstance(after, float):
        if not abs(before - after) <= tolerance and before != after:
            yield f"{where} is {before!r}, then {after!r}"
    elif before != after:
        yield f"{where} is {before!r}, then {after!r}"


def weight_differences(before: Path, after: Path) -> Iterator[str]:
    """The tensors of two safetensors files that differ by more than the tolerance."""
    from safetensors.numpy import load_file

    old, new = load_file(before), load_file(after)
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            yield f"{name} is only in {'AFTER' if name in new else 'BEFORE'}"
        elif old[name].shape != new[name].shape:
            yield f"{name} has shape {old[name].shape}, then {new[name].shape}"
        elif (largest := float(np.abs(old[name] - new[name]).max(initial=0.0))) > WEIGHT_TOLERANCE:
            yield f"{name} differs by {largest:.3g}"


def report(name: str, found: Sequence[str]) -> bool:
    """Print one line per observation, with its first differences; return whether there are any."""
    print(f"{'DIFFERS' if found else 'equal':8}{name}")
    for difference in found[:5]:
        print(f"        {difference[:300]}")
    if len(found) > 5:
        print(f"        and {len(found) - 5} more")
    return bool(found)


def checked_out(revision: str, folder: Path) -> str:
    """Check a revision out into a folder and return its commit."""
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--verify", f"{revision}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if commit.returncode:
        raise SystemExit(f"{revision} is not a revision of {ROOT}: {commit.stderr.strip()}")
    archive = subprocess.Popen(["git", "-C", ROOT, "archive", commit.stdout.strip()], stdout=subprocess.PIPE)
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], stdin=archive.stdout, check=True)
    return commit.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", metavar="BEFORE")
    parser.add_argument("after", metavar="AFTER")
    parser.add_argument("--work", type=Path, help="keep checkouts and observations in this new folder")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="hwnas-revisions-"))
    work.mkdir(parents=True, exist_ok=True)
    observations = {}
    for side in ("before", "after"):
        commit = checked_out(getattr(arguments, side), work / side / "checkout")
        print(f"{side}: {commit}", flush=True)
        subprocess.run(
            [sys.executable, Path(__file__).resolve(), "--observe", work / side, work / "old-run"],
            cwd=work / side / "checkout",
            env={**os.environ, "PYTHONPATH": str(work / side / "checkout"), "OMP_NUM_THREADS": "1"},
            check=True,
        )
        observations[side] = json.loads((work / side / "observations.json").read_text())
    before, after = observations["before"], observations["after"]
    weights = [work / side / "run" / "supernet" / "model.safetensors" for side in ("before", "after")]
    differing = [report("run/weights after 20 steps", list(weight_differences(*weights)))]
    for name in sorted(before.keys() | after.keys()):
        found = list(differences(before.get(name), after.get(name), 1e-9))
        differing.append(report(name, found))
    print(f"{sum(differing)} of {len(differing)} observations differ")
    if arguments.work is None:
        shutil.rmtree(work)
    raise SystemExit(1 if any(differing) else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--observe"]:
        observe(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
