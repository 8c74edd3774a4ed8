"""MACs and parameters as objectives and bounds of a run, and the algorithm of its search."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import hwnas
from hwnas.errors import InfeasibleError, SearchError, StoreError, TableError
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import Run, load_run
from tests.conftest import write_config


def searched_again(tiny_run: Path, folder: Path, search: dict[str, Any]) -> Run:
    """The tiny run's search made again with other fields, and what follows from it."""
    shutil.copytree(tiny_run, folder)
    overrides = {f"search.{key}": value for key, value in search.items()}
    return hwnas.run(folder / "config.yaml", run_dir=folder, overrides=overrides, restart="search")


def test_three_objectives_and_bounds_from_the_search_to_the_report(tiny_run: Path, tmp_path: Path) -> None:
    macs = load_run(tiny_run).evaluations()["macs"]
    upper = int(macs.median())
    run = searched_again(
        tiny_run,
        tmp_path / "run",
        {"objectives": ["accuracy", "latency_ms", "macs"], "constraints": {"macs": {"upper": upper}}},
    )
    found = run.evaluations()
    assert (found["macs"] <= upper).all()
    assert [o.name for o in run.searched.front.objectives] == ["accuracy", "latency_ms", "macs"]
    assert run.searched.front.points[:, 2].max() <= upper
    models = run.models
    assert models
    for model in models:
        others = [m for m in models if m is not model]
        assert not any(
            m["validation_accuracy"] >= model["validation_accuracy"]
            and m["measured"]["latency_ms"] < model["measured"]["latency_ms"]
            and m["macs"] <= model["macs"]
            for m in others
        )
    assert list(run.front.to_frame().columns) == ["accuracy", "latency_ms", "macs", "architecture"]
    page = (run.directory / "report.html").read_text()
    assert "in one of\naccuracy, latency_ms, macs and no worse" in page
    assert f"macs {float(found['macs'].max()):.4g}" in page
    card = next((run.directory / "models").glob("*/README.md")).read_text()
    assert "better in accuracy or latency_ms or macs" in card


def test_bytes_are_objectives_and_bounds(tiny_run: Path, tmp_path: Path) -> None:
    known = load_run(tiny_run).evaluations()
    upper = int(known["peak_activation_bytes"].median())
    run = searched_again(
        tiny_run,
        tmp_path / "run",
        {
            "objectives": ["accuracy", "latency_ms", "model_bytes"],
            "constraints": {"peak_activation_bytes": {"upper": upper}},
        },
    )
    found = run.evaluations()
    assert (found["peak_activation_bytes"] <= upper).all()
    assert len(run.models) > 0
    for model in run.models:
        arch = run.space.architecture(model["architecture"])
        assert model["model_bytes"] == run.space.model_bytes([arch])[0]
        data = onnx.load(run.directory / "models" / model["id"] / "model.onnx")
        stored = [onnx.numpy_helper.to_array(tensor) for tensor in data.graph.initializer]
        assert model["model_bytes"] == sum(array.nbytes for array in stored if array.dtype == np.float32)
        card = (run.directory / "models" / model["id"] / "README.md").read_text()
        assert f"| Weights | {model['model_bytes']:,} bytes |" in card
    assert run.front.objectives[2].name == "model_bytes"
    with pytest.raises(InfeasibleError, match="model_bytes"):
        searched_again(tiny_run, tmp_path / "none", {"constraints": {"model_bytes": {"upper": 10}}})


def test_accuracy_alone_within_a_budget_by_another_algorithm(tiny_run: Path, tmp_path: Path) -> None:
    run = searched_again(tiny_run, tmp_path / "run", {"objectives": ["accuracy"], "algorithm": "ga"})
    found = run.evaluations()
    assert len(run.searched.front) == 1
    assert np.isfinite(found["latency_ms"]).all()
    assert run.front[0].metrics["accuracy"] == found["accuracy"].max()
    assert (run.directory / "report.html").is_file()


def test_the_latency_of_a_second_device_is_an_objective_and_bounded(tiny_run: Path, tmp_path: Path) -> None:
    own = LatencyTable.load(tiny_run / "latency_table.json")
    operators = {
        key: replace(entry, ms=entry.ms * (3 if "-k:5" in key else 1)) for key, entry in own.operators.items()
    }
    board = tmp_path / "board.json"
    replace(own, operators=operators).save(board)
    run = load_run(tiny_run)
    bound = float(np.median(LatencyTable.load(board).latency_ms(run.space.sample(200, 0))))
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    run = hwnas.run(
        folder / "config.yaml",
        run_dir=folder,
        overrides={
            "latency.table": str(tiny_run / "latency_table.json"),
            "latency.further_tables": {"board": str(board)},
            "search.objectives": ["accuracy", "latency_ms", "latency_ms@board"],
            "search.constraints": {"latency_ms@board": {"upper": bound}},
        },
        restart="profile",
    )
    evaluations = run.evaluations()
    assert (evaluations["latency_ms@board"] <= bound).all()
    assert (evaluations["latency_ms@board"] > evaluations["latency_ms"]).any()
    for model in run.models:
        value = model["predicted"]["latency_ms@board"]
        assert value == pytest.approx(evaluations.set_index("id")["latency_ms@board"][model["id"]])
        assert (
            f"| Predicted latency, board | {value:.4g} ms |"
            in (folder / "models" / model["id"] / "README.md").read_text()
        )
    assert "Predicted<br>on board" in (folder / "report.html").read_text()
    board.unlink()  # the run keeps its own copy
    hwnas.run(folder / "config.yaml", run_dir=folder)
    with pytest.raises(StoreError, match=r"further_tables\.board was '[0-9a-f]+', is None"):
        hwnas.run(
            folder / "config.yaml",
            run_dir=folder,
            overrides={"latency.further_tables": {}, "search.objectives": ["accuracy", "latency_ms"],
                       "search.constraints": {}},
        )  # fmt: skip


def test_a_further_table_that_lacks_an_operator_is_refused_at_once(tiny_run: Path, tmp_path: Path) -> None:
    own = LatencyTable.load(tiny_run / "latency_table.json")
    key = next(key for key in own.operators if "-k:5" in key)
    replace(own, operators={k: e for k, e in own.operators.items() if k != key}).save(tmp_path / "board.json")
    tables = {
        "table": str(tiny_run / "latency_table.json"),
        "further_tables": {"board": str(tmp_path / "board.json")},
    }
    with pytest.raises(TableError, match=key):
        hwnas.run(write_config(tmp_path, latency=tables), run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("search", "error", "message"),
    [
        (
            {"algorithm": "ga"},
            SearchError,
            "'ga' is for one objective, and this search has 2; those that fit",
        ),
        ({"algorithm": "moead"}, SearchError, "'moead' knows no constraints, .*: latency_ms <= 1000"),
        ({"algorithm": "nsga4"}, SearchError, "unknown algorithm 'nsga4'; known: nsga2"),
        ({"strategy": "random", "algorithm": "ctaea"}, SearchError, "'random' has no option 'algorithm'"),
        ({"constraints": {"params": {"upper": 10}}}, InfeasibleError, "smallest reachable params is [1-9]"),
    ],
)
def test_what_cannot_be_searched_is_said_before_training(
    tiny_run: Path, tmp_path: Path, search: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = write_config(tmp_path, latency={"table": str(tiny_run / "latency_table.json")}, search=search)
    with pytest.raises(error, match=message):
        hwnas.run(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "supernet").exists()
