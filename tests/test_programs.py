"""The programs that users write, as they write them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import hwnas
from hwnas.errors import InfeasibleError
from hwnas.searching.strategies import Candidates, History
from tests.conftest import write_config


def test_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = hwnas.run(write_config(tmp_path))
    assert run.directory == Path("runs/tiny")
    frame = run.front.to_frame()
    assert list(frame.columns) == ["accuracy", "latency_ms", "architecture"]
    assert len(frame) >= 1
    best = run.front.best(max_latency_ms=1000.0)
    assert best.metrics["accuracy"] == frame["accuracy"].max()


def test_a_latency_table_of_this_machine(tmp_path: Path) -> None:
    stage = {"block": "fused", "width": 8, "depth": [1, 2, 3], "kernel": [3, 5], "expand": [1, 2]}
    space = hwnas.get_space("mobilenetv3", resolutions=(16,), stages=[stage], head={"width": 32})
    table = hwnas.profile(
        space, device="onnxruntime", threads=1, rounds=6, calibration_networks=4, held_out_networks=4
    )
    archs = space.sample(1000, rng=0)
    latency_ms = table.latency_ms(archs)
    assert latency_ms.shape == (1000,)
    assert (latency_ms > 0).all()
    table.save(tmp_path / "my-board.json")
    again = hwnas.LatencyTable.load(tmp_path / "my-board.json")
    assert np.array_equal(again.latency_ms(archs), latency_ms)


def test_your_own_space_and_your_own_evaluator() -> None:
    asked: list[hwnas.Architecture] = []
    worth = {"skip": 0.0, "k3e3": 3.0, "k5e6": 4.0}
    cost = {"skip": 0.0, "k3e3": 10.0, "k5e6": 25.0}

    def accuracy(archs: Sequence[hwnas.Architecture]) -> list[float]:
        asked.extend(archs)
        return [50 + sum(worth[arch.values[f"layer{i}"]] * (1 + i / 8) for i in range(8)) for arch in archs]

    def mflops(archs: Sequence[hwnas.Architecture]) -> list[float]:
        return [sum(cost[value] for value in arch.values.values()) for arch in archs]

    space = hwnas.SearchSpace(
        "macro", [hwnas.Choice(f"layer{i}", ("skip", "k3e3", "k5e6")) for i in range(8)]
    )
    result = hwnas.search(
        space,
        objectives=[
            hwnas.Objective("accuracy", "max", evaluate=accuracy, expensive=True),
            hwnas.Objective("mflops", "min", evaluate=mflops),
        ],
        constraints=[hwnas.Constraint("mflops", upper=80.0)],
        strategy="linas",
        evaluations=200,
        seed=0,
    )
    frame = result.front.to_frame()
    assert list(frame.columns) == ["accuracy", "mflops", "architecture"]
    assert len(result.evaluations) == 200 == len(asked) == len(set(asked))
    assert all(evaluation.metrics["mflops"] <= 80 for evaluation in result.evaluations)
    every = space.enumerate()
    allowed = [arch for arch, f in zip(every, mflops(every), strict=True) if f <= 80]
    best = max(accuracy(allowed))
    assert frame["accuracy"].max() == pytest.approx(best)


def test_a_trained_supernet_and_its_subnets(tiny_run: Path) -> None:
    net = hwnas.load_supernet(tiny_run)
    data = hwnas.load_dataset("cluttered-digits", split="test", seed=0, test=100)
    assert data.images.shape == (100, 1, 24, 24)
    assert data.labels.shape == (100,)
    assert len(data.classes) == 10
    arch = net.space.sample(1, rng=0)[0]
    train = hwnas.load_dataset("cluttered-digits", split="train", seed=0, train=200)
    resolution = arch.values["resolution"]
    batches = [hwnas.resize(train.images[i : i + 50], resolution) for i in range(0, 200, 50)]
    statistics = hwnas.calibrate(net, arch, batches)
    x = hwnas.resize(data.images, resolution)
    with torch.no_grad():
        logits = net(x, arch, statistics)
        extracted = net.extract(arch, statistics)(x)
    assert logits.shape == (100, 10)
    assert torch.allclose(logits, extracted, rtol=1e-4, atol=1e-5)


def test_one_architecture_as_a_plain_network_and_as_onnx(tmp_path: Path) -> None:
    space = hwnas.get_space("mobilenetv3")
    arch = space.sample(1, rng=0)[0]
    model = hwnas.build(space, arch)
    assert not model.training
    hwnas.export_onnx(model, tmp_path / "net.onnx", input_shape=(1, 3, 224, 224))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    assert np.allclose(logits, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


class MyStrategy:
    """Random architectures, each once."""

    def begin(self, problem: Any, seed: int) -> None:
        self.candidates, self.history, self.seed = Candidates(problem), History(problem), seed

    def ask(self, n: int, pending: Sequence[hwnas.Architecture] = ()) -> hwnas.Architectures:
        rng = np.random.default_rng([self.seed, len(self.history), len(pending)])
        drawn = self.candidates.draw(min(n, 10), rng, self.history.seen(pending))
        return self.candidates.problem.space.architectures(drawn)

    def tell(self, evaluations: Sequence[hwnas.Evaluation]) -> None:
        self.history.add(evaluations)


def test_plug_ins_are_objects() -> None:
    space = hwnas.SearchSpace("macro", [hwnas.Choice(f"layer{i}", (0, 1, 2)) for i in range(8)])
    worth = hwnas.Objective("worth", "max", lambda a: [sum(x.genotype) for x in a], expensive=True)
    cost = hwnas.Objective("cost", "min", lambda a: [sum(x.genotype[:4]) for x in a])
    result = hwnas.search(space, objectives=[worth, cost], strategy=MyStrategy(), evaluations=100, seed=0)
    assert len(result.evaluations) == 100
    hwnas.testing.check_strategy(MyStrategy)


def test_an_infeasible_constraint_ends_at_once_with_what_can_be_reached() -> None:
    space = hwnas.SearchSpace("two", [hwnas.Choice("a", (1, 2)), hwnas.Choice("b", (3, 4))])

    def never(archs: Sequence[hwnas.Architecture]) -> list[float]:
        raise AssertionError("nothing is evaluated")

    def cost(archs: Sequence[hwnas.Architecture]) -> list[float]:
        return [sum(arch.values.values()) for arch in archs]

    with pytest.raises(InfeasibleError, match="4"):
        hwnas.search(
            space,
            [hwnas.Objective("accuracy", "max", never, expensive=True), hwnas.Objective("cost", "min", cost)],
            [hwnas.Constraint("cost", upper=3)],
        )


def test_the_front_of_a_run_is_what_was_measured(tiny_run: Path) -> None:
    from hwnas.pipeline import load_run

    run = load_run(tiny_run)
    models = json.loads((tiny_run / "pareto.json").read_text())["models"]
    measured = {m["id"]: m["measured"]["latency_ms"] for m in models}
    for evaluation in run.front:
        assert evaluation.metrics["latency_ms"] == measured[evaluation.architecture.id]
    points = [(m["validation_accuracy"], m["measured"]["latency_ms"]) for m in models]
    for (a1, l1), (a2, l2) in itertools.permutations(points, 2):
        assert not (a1 >= a2 and l1 <= l2 and (a1, l1) != (a2, l2))
