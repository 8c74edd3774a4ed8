"""The tables that are shipped: whole, small, described, and good for the spaces that they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwnas.config import load_config
from hwnas.latency.table import LatencyTable
from hwnas.spaces import NetworkSpace, get_space
from tests.latency.test_formats import proxyless_space

ROOT = Path(__file__).parents[1]
TABLES = sorted((ROOT / "latency_tables").glob("*.json"))
MEASURED = [path for path in TABLES if path.name.startswith("amd-epyc")]


def digits() -> NetworkSpace:
    named = load_config(ROOT / "configs" / "digits.yaml").space
    return get_space(named.name, classes=10, channels=1, **named.parameters)


def ofa(width: float = 1.0) -> NetworkSpace:
    return get_space("mobilenetv3", width=width, resolutions=(128, 160, 192, 224))


SPACES = {
    "amd-epyc-1-thread-digits.json": [digits()],
    "amd-epyc-1-thread-ofa-mobilenetv3.json": [ofa()],
    "amd-epyc-2-threads-digits.json": [digits()],
    "amd-epyc-2-threads-ofa-mobilenetv3.json": [ofa()],
    "i7-8700k-ofa-mobilenetv3.json": [ofa(), ofa(1.2)],
    "pixel1-proxylessnas.json": [proxyless_space()],
}


def test_all_that_is_shipped_is_tested() -> None:
    assert {path.name for path in TABLES} == SPACES.keys()


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_shipped_table(path: Path) -> None:
    assert path.stat().st_size < 200_000
    assert f"`{path.name}`" in (path.parent / "README.md").read_text()
    table = LatencyTable.load(path)
    assert table.device["name"] == table.device["cpu"]  # not the name of somebody's machine
    for space in SPACES[path.name]:
        archs = space.sample(50, 0)
        latency, macs = table.latency_ms(archs), space.macs(archs)
        assert (latency > 0).all()
        assert latency[macs.argmax()] > latency[macs.argmin()]


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_a_measured_table_is_of_its_space_and_says_if_it_is_noisy(path: Path) -> None:
    table = LatencyTable.load(path)
    (space,) = SPACES[path.name]
    assert table.runtime["name"] == "onnxruntime"
    described = next(
        line for line in (path.parent / "README.md").read_text().splitlines() if path.name in line
    )
    assert table.protocol["noisy"] == ("flagged as noisy" in described)
    assert f"{table.runtime['threads']} thread" in described
    assert {row["space"] for row in table.calibration} == {space.id}
    assert set(table.operators) == {op.key for op in space.all_operators()}
    errors = [(row["held_out"]["mape"], row["macs_baseline"]["mape"]) for row in table.calibration]
    assert all(mape < (10 if table.protocol["noisy"] else 5) for mape, _ in errors)
    assert sum(mape for mape, _ in errors) < sum(baseline for _, baseline in errors)
