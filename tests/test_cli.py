"""The command: help that teaches, exit codes, machine-readable output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer.main
from rich.progress import Task

from hwnas.cli import app
from hwnas.cli.display import TimeColumn
from tests.conftest import Command, write_config


def commands() -> list[list[str]]:
    group: Any = typer.main.get_command(app)
    found = []
    for name, command in group.commands.items():
        found += [[name, sub] for sub in command.commands] if hasattr(command, "commands") else [[name]]
    return found


def test_an_enormous_estimate_is_shown_too() -> None:
    for seconds, shown in ((61, "0:01:01"), (10**12, "31,688 years")):
        task = SimpleNamespace(finished=False, elapsed=seconds, total=9, time_remaining=seconds)
        assert TimeColumn().render(cast(Task, task)).plain == f"{shown}, {shown} left"


def test_all_commands_exist() -> None:
    assert sorted(" ".join(command) for command in commands()) == [
        "bench predictor",
        "benchmark",
        "doctor",
        "export",
        "finetune",
        "front",
        "list",
        "predict",
        "profile",
        "report",
        "run",
        "search",
        "table build",
        "table diff",
        "table export",
        "table import",
        "table show",
        "table validate",
        "train",
        "verify",
    ]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_is_documented_with_an_example(command: list[str], hwnas_command: Command) -> None:
    code, out, _ = hwnas_command(*command, "--help")
    assert code == 0
    assert f"Example: hwnas {' '.join(command)}" in " ".join(out.split())
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert f"hwnas {' '.join(command)}" in readme


def test_wrong_syntax_exits_with_2(hwnas_command: Command) -> None:
    assert hwnas_command("run")[0] == 2
    assert hwnas_command("run", "x.yaml", "--nonsense")[0] == 2
    assert hwnas_command("nonsense")[0] == 2


def test_errors_are_one_line_and_exit_with_1(hwnas_command: Command, tmp_path: Path) -> None:
    code, out, err = hwnas_command("run", tmp_path / "none.yaml")
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"error: cannot read \S*none\.yaml: No such file or directory\s*", " ".join(err.split())
    )
    code, _, err = hwnas_command("run", write_config(tmp_path), "--set", "search.evaluation=3")
    assert code == 1
    assert "search.evaluation: unknown key" in " ".join(err.split())
    assert "Traceback" not in err


def test_run_prints_the_front_and_how_to_use_it(
    tiny_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    code, out, _ = hwnas_command("run", copy / "config.yaml", "--run-dir", copy)
    assert code == 0
    models = json.loads((copy / "pareto.json").read_text())["models"]
    for model in models:
        assert model["id"] in out
    assert str(copy / "report.html") in "".join(out.split("\n"))
    assert "InferenceSession" in out
    code, out, _ = hwnas_command("run", copy / "config.yaml", "--run-dir", copy, "--json")
    assert code == 0
    summary = json.loads(out)
    assert summary["models"] == models
    assert summary["budgets"][0]["model"] is not None


def test_a_budget_that_cannot_be_met_exits_with_3(
    tiny_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    arguments = ["--latency-budget-ms", 1e-9, "--latency-budget-ms", 1000, "--restart", "search"]
    code, out, err = hwnas_command("run", copy / "config.yaml", "--run-dir", copy, *arguments)
    assert code == 3
    assert "For 1e-09 ms: no model keeps it" in out
    assert "no architecture keeps the budget of 1e-09 ms" in err
    arguments = ["--latency-budget-ms", 1e-9, "--restart", "search"]
    code, _, err = hwnas_command("run", copy / "config.yaml", "--run-dir", copy, *arguments)
    assert code == 1
    assert "the fastest one takes" in " ".join(err.split())


def test_stage_by_stage(tiny_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    config = write_config(tmp_path, latency={"table": str(tiny_run / "latency_table.json")})
    folder = tmp_path / "run"
    code, _, err = hwnas_command("search", folder)
    assert code == 1
    assert "is not the folder of a run" in " ".join(err.split())
    code, out, _ = hwnas_command("profile", config, "--run-dir", folder, "--json")
    assert code == 0
    assert json.loads(out)["operators"] > 5
    code, _, err = hwnas_command("search", folder)
    assert code == 1
    assert "search needs train" in " ".join(err.split())
    assert hwnas_command("train", config, "--run-dir", folder)[0] == 0
    for stage in ("search", "export", "verify", "report"):
        assert hwnas_command(stage, folder)[0] == 0
    assert (folder / "report.html").is_file()
    assert "search: finished" in (folder / "hwnas.log").read_text()


@pytest.mark.parametrize("what", ["spaces", "devices", "predictors", "strategies", "algorithms"])
def test_list(what: str, hwnas_command: Command) -> None:
    code, out, _ = hwnas_command("list", what, "--json")
    names = json.loads(out)[what]
    assert code == 0
    assert names
    assert hwnas_command("list", what)[1].split() == names


def test_list_of_something_unknown(hwnas_command: Command) -> None:
    code, _, err = hwnas_command("list", "things")
    assert code == 1
    assert "known: spaces, devices, predictors, strategies" in " ".join(err.split())


def test_bench_predictor(tmp_path: Path, hwnas_command: Command) -> None:
    rows = [f"{i},{i % 7},{'ab'[i % 2]},{3 * i + i % 7 + 5 * (i % 2)}" for i in range(40)]
    file = tmp_path / "latencies.csv"
    file.write_text("\n".join(["id,width,kind,ms", *rows]) + "\n")
    options = ("--target", "ms", "--train", 20, "--seeds", 2, "--predictor", "ridge", "--predictor", "gp")
    code, out, _ = hwnas_command("bench", "predictor", file, *options, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["rows"], found["features"]) == (40, ["id", "width", "kind=a", "kind=b"])
    assert found["predictors"]["ridge"]["kendall_tau"]["mean"] > 0.95
    code, out, _ = hwnas_command("bench", "predictor", file, *options)
    assert code == 0
    assert re.search(r"ridge +[01]\.\d{3}±0\.\d{3} ", out)
    assert max(len(line) for line in out.splitlines()[1:]) <= 80
    file.write_text(
        "\n".join([",id,width,kind,ms", *(f"{i},{row}" for i, row in enumerate(rows)), "40,1,1,a,"])
    )
    code, _, err = hwnas_command("bench", "predictor", file, *options)
    assert code == 1
    assert "is not a finite number in 1 of 41 rows (line 42: ''); correct them, or leave them out" in err
    code, out, _ = hwnas_command("bench", "predictor", file, *options, "--drop-missing")
    assert code == 0
    assert "Left out: 1 rows whose ms is not a finite number" in out
    assert "Left out: column 'Unnamed: 0', which numbers the rows" in out
    code, _, err = hwnas_command("bench", "predictor", file, "--target", "seconds")
    assert code == 1
    assert "has no column 'seconds'; it has Unnamed: 0, id, width, kind, ms" in " ".join(err.split())
    code, _, err = hwnas_command("bench", "predictor", file, "--target", "ms", "--drop-missing")
    assert code == 1
    assert "40 distinct rows are too few to learn from 100" in " ".join(err.split())


def test_doctor(hwnas_command: Command) -> None:
    code, out, _ = hwnas_command("doctor", "--json")
    assert code == 0
    findings = {finding["name"]: finding for finding in json.loads(out)["findings"]}
    assert {"python", "torch", "cores", "load", "steal", "timing noise"} <= findings.keys()
    assert all(finding["ok"] == (finding["advice"] == "") for finding in findings.values())


def test_table_commands(tiny_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    table = shutil.copy(tiny_run / "latency_table.json", tmp_path / "table.json")
    code, out, _ = hwnas_command("table", "show", table)
    assert code == 0
    assert "MAPE" in out
    assert hwnas_command("table", "validate", table)[0] == 0
    text = Path(table).read_text()
    edited = re.sub(r'"ms": 0\.\d+', '"ms": 0.5', text, count=1)
    assert edited != text
    Path(table).write_text(edited)
    code, _, err = hwnas_command("table", "validate", table)
    assert code == 1
    assert "sha256" in err
    assert hwnas_command("table", "validate", "--reseal", table)[0] == 0
    assert hwnas_command("table", "validate", table)[0] == 0
    code, out, _ = hwnas_command("table", "diff", tiny_run / "latency_table.json", table, "--json")
    assert code == 0
    difference = json.loads(out)
    assert len(difference["differing"]) == 1
    assert difference["differing"][0]["b_ms"] == 0.5
    assert difference["only_a"] == difference["only_b"] == []
    Path(table).write_text(edited.replace('"ms": 0.5', '"ms": -0.5'))
    code, out, err = hwnas_command("table", "validate", "--reseal", table, tiny_run / "latency_table.json")
    assert code == 1
    assert "-0.5" in err
    assert "latency_table.json: valid" in out  # the others are looked at nevertheless


def test_tables_of_other_projects(tiny_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    lut, table = tmp_path / "lut.yaml", tmp_path / "table.json"
    code, out, _ = hwnas_command("table", "export", tiny_run / "latency_table.json", "-o", lut)
    assert code == 0
    assert "kind fused" in out
    assert "note: the calibration has no place" in out
    code, out, _ = hwnas_command("table", "import", lut, "--device", "Board", "-o", table, "--json")
    assert code == 0
    assert json.loads(out)["skipped"] == {}
    shown = json.loads(hwnas_command("table", "show", table, "--json")[1])
    assert shown["device"]["name"] == "Board"
    assert shown["operators"] == json.loads(out)["operators"] > 0
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("64.yaml", "96.yaml"):
        shutil.copy(lut, folder / name)
    code, out, _ = hwnas_command("table", "import", folder, "--device", "Board", "-o", table)
    assert code == 0
    assert re.search(
        r"note: \d+ of \d+ rows are in several files and were merged: means weighted by count", out
    )
    code, _, err = hwnas_command("table", "import", lut, "--device", "x", "-o", table, "--format", "tvm")
    assert code == 1
    assert "unknown format 'tvm'; known: ofa" in err


def test_front(tiny_run: Path, hwnas_command: Command) -> None:
    models = json.loads((tiny_run / "pareto.json").read_text())["models"]
    code, out, _ = hwnas_command("front", tiny_run)
    assert code == 0
    assert all(model["id"] in out for model in models)
    assert "Latency: measured" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    fastest = min(model["measured"]["latency_ms"] for model in models)
    options = ("--max-latency-ms", fastest * 1.0001, "--sort", "latency_ms", "--json")
    code, out, _ = hwnas_command("front", tiny_run, *options)
    assert [model["latency_ms"] for model in json.loads(out)["models"]] == [fastest]
    code, out, err = hwnas_command("front", tiny_run, "--max-latency-ms", fastest / 2)
    assert (code, out) == (1, "")
    assert f"has latency_ms <= {fastest / 2:g}; the nearest has {fastest:g}" in err
