"""Progress as plain text: a redrawn line on terminals and in notebooks, a line now and then elsewhere."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

import hwnas
from hwnas import progress
from hwnas.errors import ConfigError
from hwnas.pipeline import no_display
from hwnas.progress import TextDisplay, as_progress, silent
from tests.latency.fakes import FakeDevice, small_space
from tests.searching.problems import objectives, toy_space


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each update is shown, whatever the time since the last one."""
    monkeypatch.setattr(progress, "REDRAW_S", 0.0)
    monkeypatch.setattr(progress, "LINE_S", 0.0)


@pytest.mark.usefixtures("every_update")
def test_a_terminal_has_one_line_a_stage() -> None:
    stream = Terminal()
    display = TextDisplay(stream)
    update = display("train")
    update(0, 20, "choosing precision")
    update(10, 20, "loss 1.2")
    update(20, 20, "loss 0.9")
    display("search")(1, 5)
    display.close()
    display.close()
    assert stream.getvalue() == (
        "\rtrain: 0/20 choosing precision\rtrain: 10/20 loss 1.2         \rtrain: 20/20 loss 0.9\n"
        "\rsearch: 1/5\n"
    )


@pytest.mark.usefixtures("every_update")
def test_a_stage_that_was_interrupted_does_not_share_its_line() -> None:
    stream = Terminal()
    display = TextDisplay(stream)
    display("train")(3, 20)
    display("search")
    assert stream.getvalue() == "\rtrain: 3/20\n"


@pytest.mark.usefixtures("every_update")
def test_a_line_fits_the_terminal_and_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    TextDisplay(stream)("train")(1, 2, "a\x1b[2Jname\nof many words")
    assert stream.getvalue() == "\rtrain: 1/2 a\ufffd[2Jna…"


def test_updates_in_quick_succession_are_not_all_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_S", 1e9)
    stream = Terminal()
    update = TextDisplay(stream)("train")
    for step in range(1, 101):
        update(step, 100)
    assert stream.getvalue() == "\rtrain: 1/100\rtrain: 100/100\n"  # the first and the last


def test_elsewhere_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_S", 1e9)
    stream = io.StringIO()
    TextDisplay(stream)("train")(1, 2)
    monkeypatch.setattr(progress, "LINE_S", 0.0)
    display = TextDisplay(stream)
    display("train")(1, 2, "loss 1.2")
    display("train")(2, 2)
    display.close()
    assert stream.getvalue() == "train: 1/2 loss 1.2\ntrain: 2/2\n"


@pytest.mark.usefixtures("every_update")
def test_a_run_in_python_shows_its_progress(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    config = folder / "config.yaml"
    hwnas.run(config, run_dir=folder, restart="report")
    assert capsys.readouterr() == ("", f"report: 1/1 {folder / 'report.html'}\n")
    hwnas.run(config, run_dir=folder, restart="report", display=no_display)
    assert capsys.readouterr() == ("", "")


def test_a_progress_argument_is_a_function_or_says_whether_there_is_text() -> None:
    def show(done: int, total: int, text: str = "") -> None:
        raise AssertionError

    assert as_progress(show, "train") is show
    assert as_progress(False, "train") is as_progress(None, "train") is silent
    with pytest.raises(ConfigError, match=r"progress is True, to show text, or a function .*, got 'bar'"):
        as_progress("bar", "train")  # type: ignore[arg-type]


@pytest.mark.usefixtures("every_update")
def test_searching_and_profiling_show_text(capsys: pytest.CaptureFixture[str]) -> None:
    hwnas.search(toy_space(), objectives(), strategy="random", evaluations=10, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["search:", f"{done}/10"] for done in range(1, 11)]
    assert "on the front" in lines[-1]
    stage = {"block": "fused", "width": [8], "depth": [1], "kernel": [3, 5], "expand": [1]}
    hwnas.profile(small_space(resolutions=(8,), stages=[stage]), FakeDevice(), rounds=2, progress=True)
    assert "timing" in capsys.readouterr().err
