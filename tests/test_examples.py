"""The examples run, with fewer steps and a device of known costs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.latency.fakes import FakeDevice

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_space_of_your_own() -> None:
    main = runpy.run_path(str(EXAMPLES / "own_space.py"))["main"]
    front = main(steps=80, evaluations=12, device=FakeDevice()).to_frame()
    assert front["latency_ms"].is_monotonic_decreasing
    assert front["accuracy"].iloc[0] > 0.15  # ten classes


@pytest.mark.filterwarnings("default")  # torch's exporter warns of its own parts
def test_a_model_of_your_own() -> None:
    main = runpy.run_path(str(EXAMPLES / "own_model.py"))["main"]
    front = main(steps=5, evaluations=3, device=FakeDevice()).to_frame()
    assert (front["latency_ms"] > 0).all()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 60


def test_a_supernet_that_is_trained_already() -> None:
    main = runpy.run_path(str(EXAMPLES / "search_supernet.py"))["main"]
    front = main(evaluations=14)
    assert front.best().metrics["accuracy"] > 80
    assert front.to_frame()["latency_ms"].is_monotonic_decreasing
