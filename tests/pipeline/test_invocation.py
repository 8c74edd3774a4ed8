"""Command lines and Python calls that open a run again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.config import format_override, parse_override
from hwnas.pipeline import load_run, open_run
from hwnas.pipeline.invocation import Invocation
from tests.conftest import write_config

ALL = ["profile", "train", "search", "export", "verify", "report"]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(PLAIN)
def test_an_override_is_written_as_it_is_read(value: Any) -> None:
    assert parse_override(format_override("data.path", value)) == ("data.path", value)


def test_a_command_names_the_file_the_folder_and_every_setting() -> None:
    invocation = Invocation(
        Path("runs/my digits"),
        Path("my configs/digits.yaml"),
        {
            "training.steps": 45,
            "data": {"name": "imagefolder", "path": "/my photos", "size": 8},
            "seed": 3,
            "latency.budgets_ms": [0.5, 1e-9],
        },
    )
    words = [
        *["my configs/digits.yaml", "--run-dir", "runs/my digits", "--set", "training.steps=45", "--set"],
        *["data={name: imagefolder, path: /my photos, size: 8}", "--seed", "3"],
    ]
    budgets = ["--latency-budget-ms", "0.5", "--latency-budget-ms", "1e-09"]
    assert shlex.split(invocation.finish()) == ["hwnas", "run", *words, *budgets]
    remake = ["hwnas", "run", *words, *budgets, "--restart", "train"]
    assert shlex.split(invocation.remake("train", ALL)) == remake
    words += ["--set", "latency.budgets_ms=[0.5, 1.0e-09]"]  # training has no option for budgets
    assert shlex.split(invocation.remake("train", ["train"])) == [
        *["hwnas", "train", *words, "--restart", "train"]
    ]


def test_a_run_opened_by_its_folder_is_named_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invocation = Invocation(Path("runs/x"), overrides={"search.strategy": "random"})
    options = "--set search.strategy=random"
    assert invocation.remake("search", ["search"]) == f"hwnas search runs/x {options} --restart search"
    assert invocation.remake("train", ["search"]) == (
        f"hwnas run runs/x/config.yaml --run-dir runs/x {options} --restart train"
    )
    assert invocation.elsewhere("search", ["search"]) == (
        f"cp -r runs/x runs/x-2 && hwnas search runs/x-2 {options} --restart search"
    )
    # --run-dir looks for a relative path under runs/, so another one is written absolute.
    monkeypatch.chdir(tmp_path)
    assert Invocation(Path("mine/x")).finish() == (
        f"hwnas run mine/x/config.yaml --run-dir {tmp_path}/mine/x"
    )


def test_a_new_folder_is_one_that_does_not_exist(tmp_path: Path) -> None:
    for name in ("x", "x-2", "x-3"):
        (tmp_path / name).mkdir()
    invocation = Invocation(tmp_path / "x", Path("x.yaml"))
    assert invocation.elsewhere("train", ALL) == f"hwnas run x.yaml --run-dir {tmp_path}/x-4"


def test_what_only_python_holds_is_opened_in_python(tmp_path: Path) -> None:
    run = open_run(write_config(tmp_path), run_dir=tmp_path / "run", overrides={"seed": 4})
    assert run.invocation.remake("train", ALL).startswith("hwnas run ")
    run = open_run(run.config, run_dir=tmp_path / "run", overrides={"seed": 4})
    folder = str(tmp_path / "run")
    assert run.invocation.remake("train", ALL) == (
        f"hwnas.run(config, run_dir={folder!r}, overrides={{'seed': 4}}, restart='train')"
    )
    assert run.invocation.elsewhere("train", ALL) == (
        f"hwnas.run(config, run_dir={folder + '-2'!r}, overrides={{'seed': 4}})"
    )


def test_a_run_for_another_device_names_both_folders_and_the_table() -> None:
    source = (Path("runs/x"), Path("my table.json"))
    invocation = Invocation(Path("runs/board"), overrides={"seed": 4}, source=source)
    search = "hwnas search runs/x --table 'my table.json' --run-dir"
    assert invocation.remake("search", ["profile", "search"]) == (
        f"{search} runs/board --seed 4 --restart search"
    )
    assert invocation.elsewhere("search", ["profile", "search"]) == f"{search} runs/board-2 --seed 4"
    # The supernet is that of the other run, so it is not trained in this folder.
    assert invocation.remake("train", ["profile", "search"]) == f"{search} runs/board-2 --seed 4"
    assert invocation.extend(9) == f"{search} runs/board --seed 4 --evaluations 9"
    assert invocation.command("verify") == "hwnas verify runs/board --seed 4"
    in_python = replace(invocation, in_python=True, has_data=True)
    call = "hwnas.pipeline.run_for_device(run, 'my table.json', 'runs/board').make(['profile', 'search']"
    assert in_python.finish() == f"{call})"
    assert in_python.remake("search", ["search"]) == f"{call}, restart='search')"
    assert in_python.extend(9) == f"{call}, extend=True)"


def test_nothing_is_written_before_a_stage_begins(tmp_path: Path) -> None:
    run = open_run(write_config(tmp_path), run_dir=tmp_path / "run")
    assert run.seconds == {}
    assert not (tmp_path / "run").exists()
    with pytest.raises(Exception, match="is not the folder of a run"):
        load_run(tmp_path / "run")
