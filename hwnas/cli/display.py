"""What the terminal shows: work that goes on, errors on standard error, lines on standard output."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table
from rich.text import Text

from hwnas.cli.streams import AnyEncoding
from hwnas.files import standard_stream
from hwnas.progress import Progress
from hwnas.text import PrintableFormatter, printable

out = AnyEncoding()
err = AnyEncoding(stderr=True)

YEAR_S = 31_557_600
LINE_S = 30  # seconds between lines about a stage where there is no terminal
GOES_ON = "interrupted; the same command goes on from here"


class RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        text = "" if speed is None else f"{speed:,.{0 if speed >= 10 else 2}f}/s"
        return Text(text, style="progress.data.speed")


class TimeColumn(ProgressColumn):
    """The time that a stage has taken, and the time that is left where that is known."""

    def render(self, task: Task) -> Text:
        spent = task.finished_time if task.finished else task.elapsed
        text = _duration(spent or 0)
        if task.total is not None and not task.finished and task.time_remaining is not None:
            text += f", {_duration(task.time_remaining)} left"
        return Text(text, style="progress.elapsed")


def _duration(seconds: float) -> str:
    """Days, hours, minutes and seconds; an estimate that is beyond all use in years."""
    if seconds < 100 * YEAR_S:
        return str(timedelta(seconds=int(seconds)))
    return f"{seconds // YEAR_S:,.0f} years"


class Bars(RichProgress):
    """Bars, and below them a table of what there is to know."""

    facts: Mapping[str, str] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.facts:
            table = Table.grid(padding=(0, 2))
            for name, value in self.facts.items():
                table.add_row(plain(f"  {name}"), plain(value))
            yield table


class StageDisplay:
    """One bar a stage: done, rate, time spent and left, and a line of text, on standard error.

    A running search has a table below it; where there is no terminal, a line now and then. The first Ctrl-C
    stops the work after the step in hand, a second one at once.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._last_line = time.monotonic()
        room = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what is left of the line
        self._progress = Bars(
            TextColumn("[bold]{task.description:8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            RateColumn(),
            TimeColumn(),
            TextColumn("{task.fields[text]}", markup=False, table_column=room),
            console=err,
            expand=True,
        )

    def __enter__(self) -> StageDisplay:
        self._handler = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._handler)
        for task in self._progress.tasks:
            if task.total is None:  # it did nothing
                self._progress.update(task.id, visible=False)
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, stage: str) -> Progress:
        task = self._progress.add_task(stage, total=None, text="")

        def update(done: int, total: int, text: str = "") -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._progress.start()  # nothing is shown before there is something to show
            self._progress.update(task, completed=done, total=total, text=printable(text))
            self._line(f"{stage}: {done}/{total} {text}")

        return update

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._progress.console.print("finishing the step in hand; Ctrl-C again stops at once")

    def watch(self, facts: Mapping[str, str]) -> None:
        """Show what there is to know of a running search."""
        self._progress.facts = dict(facts)
        self._line(f"search: {', '.join(f'{name} {value}' for name, value in facts.items())}")

    def _line(self, text: str) -> None:
        """A line now and then where there is no terminal."""
        if not err.is_terminal and time.monotonic() >= self._last_line + LINE_S:
            self._last_line = time.monotonic()
            sys.stderr.write(printable(text.rstrip()) + "\n")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show the warnings of hwnas, and which images it uses, on standard error."""
    logger, data = logging.getLogger("hwnas"), logging.getLogger("hwnas.data")
    screen = logging.StreamHandler(sys.stderr)
    screen.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == data.name)
    screen.setFormatter(PrintableFormatter())
    logger.addHandler(screen)
    data.setLevel(logging.INFO)
    try:
        yield
    finally:
        data.setLevel(logging.NOTSET)
        logger.removeHandler(screen)


@contextmanager
def interruptible(interrupted: str) -> Iterator[StageDisplay]:
    """A display of work that can be gone on with; an interruption says how, and exits with 130."""
    try:
        with warnings_shown(), StageDisplay() as display:
            yield display
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        raise typer.Exit(130) from None


def say(text: str) -> None:
    """A line of plain text, however wide."""
    sys.stdout.write(printable(text) + "\n")


def complain(error: object) -> None:
    """An error in one line."""
    sys.stderr.write(f"error: {printable(' '.join(str(error).splitlines()))}\n")


def summary_beside(output: Path) -> AbstractContextManager[object]:
    """Send a command's summary to standard error while its output file is standard output.

    Otherwise ``-o /dev/stdout`` would mix the file with the lines about it.

    Args:
        output: The path of the file that the command writes.

    Returns:
        A context in which the summary is printed.
    """
    return redirect_stdout(sys.stderr) if standard_stream(output) == 1 else nullcontext()


def plain(text: str) -> Text:
    """Text in a table as it is: no markup, and nothing that a terminal takes for an order."""
    return Text(printable(text))


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


def not_kept(device: str) -> str:
    """What is said when a measurement that belongs to no stage is interrupted."""
    if device.startswith("ssh://"):
        kept = "what the board has measured it keeps for a day: the same command goes on with it"
        return f"interrupted; nothing was written here, {kept}"
    return "interrupted; nothing of this measurement is kept: the same command starts anew"
