"""Commands whose standard output or error is not UTF-8."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import BarColumn, TextColumn
from rich.table import Column

from hwnas.cli import main
from hwnas.cli.display import Bars
from hwnas.cli.streams import HANDLER, AnyEncoding
from tests.latency.test_together import MODELS, Shifting
from tests.reliability.make_fixtures import FIXTURES

FIXTURE = FIXTURES / "schema-3"
Encoded = Callable[..., tuple[int, str, str]]


@pytest.fixture
def encoded_command(monkeypatch: pytest.MonkeyPatch) -> Encoded:
    """Run the command with standard streams of an encoding: exit code, output, errors."""

    def run(encoding: str, *arguments: object) -> tuple[int, str, str]:
        buffers = [io.BytesIO(), io.BytesIO()]
        streams = [io.TextIOWrapper(buffer, encoding, write_through=True) for buffer in buffers]
        code = 0
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        out, err = (buffer.getvalue().decode(encoding) for buffer in buffers)
        return code, out, err

    return run


def words(text: str) -> list[str]:
    """The words of a text without table lines, special characters and their substitutes."""
    text = re.sub(r"\+-|<=|->|\.\.\.|[^\x00-\x7f]|\bx\b", " ", text)
    return re.findall(r"[A-Za-z0-9./%?]+", text)


ENCODINGS = ("ascii", "iso-8859-1", "cp1252")
COMMANDS = [
    "front RUN",
    "front RUN --json",
    "table show RUN/latency_table.json",
    "table diff RUN/latency_table.json RUN/latency_table.json",
    "table validate RUN/latency_table.json",
    "table export RUN/latency_table.json -o /dev/null",
    "list spaces",
    "--help",
    "run --help",
    "table import --help",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_encoding_gets_the_same_words(command: str, encoded_command: Encoded) -> None:
    arguments = command.replace("RUN", str(FIXTURE)).split()
    code, expected, err = encoded_command("utf-8", *arguments)
    assert code == 0, err
    for encoding in ENCODINGS:
        code, out, err = encoded_command(encoding, *arguments)
        assert code == 0, err
        assert words(out) == words(expected)


def test_a_finished_run_is_shown(tiny_run: Path, encoded_command: Encoded) -> None:
    for encoding in ENCODINGS:
        code, out, err = encoded_command(encoding, "verify", tiny_run)
        assert code == 0, err
        assert "<= 1000" in out
        assert "?" not in out


def test_tables_are_not_cut_off(tmp_path: Path, encoded_command: Encoded) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,ms\n" + "".join(f"{i},{i % 3},{2 * i + i % 3}\n" for i in range(40)))
    options = ("--target", "ms", "--train", 20, "--seeds", 2, "--predictor", "ridge")
    for encoding in ENCODINGS:
        code, out, err = encoded_command(encoding, "bench", "predictor", table, *options)
        assert code == 0, err
        assert re.search(r"ridge +[01]\.\d{3}(\+-|±)\d\.\d{3}", out)
        code, out, err = encoded_command(encoding, "doctor")
        assert code == 0, err
        assert "timing noise" in " ".join(out.split())


@pytest.mark.parametrize("as_json", [False, True])
def test_a_benchmark_is_not_lost(
    as_json: bool, tmp_path: Path, encoded_command: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.latency.devices.get_device", lambda *_: Shifting(1.0))
    files = [tmp_path / f"{name}.onnx" for name in ("grün", "网络")]
    for file in files:
        file.write_bytes(MODELS[0])
    for encoding in ENCODINGS:
        options = ["--json"] if as_json else []
        code, out, err = encoded_command(encoding, "benchmark", *files, *options)
        assert code == 0, err
        if as_json:
            assert [row["file"] for row in json.loads(out)["models"]] == [str(file) for file in files]
        else:
            assert "".join(out.split()).count(".onnx") == 2
            assert "1.000-1.000" in out or "1.000–1.000" in out


def test_bars_and_tables_of_progress_are_printed() -> None:
    for encoding in ENCODINGS:
        stream = io.TextIOWrapper(io.BytesIO(), encoding, HANDLER, write_through=True)
        console = AnyEncoding(file=stream, force_terminal=True, width=60)
        text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))
        bars = Bars(BarColumn(bar_width=10), text, console=console, expand=True)
        bars.add_task("budget ≤ 3 ms, " + "a long line " * 9, total=3, completed=1)
        bars.facts = {"hypervolume": "1.5 ± 0.1"}
        with bars:
            pass
        shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert "<= 3 ms" in shown
        assert re.search(r"-{3}.*(\.\.\.|…)", shown)
        assert re.search(r"1.5 (\+-|±) 0.1", shown)


def test_errors_are_printed(tmp_path: Path, encoded_command: Encoded) -> None:
    for encoding in ENCODINGS:
        code, out, err = encoded_command(encoding, "table", "show", tmp_path / "größe → 网络.json")
        assert (code, out) == (1, "")
        assert re.fullmatch(r"error: cannot read \S*gr..?e -> \?\?\.json: No such file or directory\n", err)


def test_the_encoding_of_the_environment_counts(tmp_path: Path) -> None:
    """A new process opens its streams with PYTHONIOENCODING."""
    (tmp_path / "table.json").write_bytes((FIXTURE / "latency_table.json").read_bytes())
    command = [sys.executable, "-m", "hwnas", "table", "show", tmp_path / "table.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b" x sum" in shown.stdout
    assert shown.stderr == b""
