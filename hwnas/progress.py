"""How long work reports itself: done, total, and a line of text; and its display as plain text."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Protocol, TextIO

from hwnas.errors import ConfigError
from hwnas.text import printable

REDRAW_S = 0.2  # seconds between two versions of a line on a terminal or in a notebook
LINE_S = 30.0  # seconds between two lines elsewhere, such as in a log file


class Progress(Protocol):
    """Called now and then by long work; raising KeyboardInterrupt in it stops the work."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def silent(done: int, total: int, text: str = "") -> None:
    """A Progress that shows nothing."""


class TextDisplay:
    """Shows the progress of stages as plain text.

    On a terminal and in a notebook each stage is one line that is redrawn. Elsewhere, such as in a log file,
    a new line is written every 30 seconds. `close` ends an unfinished line.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Create a display.

        Args:
            stream: The text stream to write to; standard error by default.
        """
        self._stream = sys.stderr if stream is None else stream
        # The streams of a notebook are no terminals, but redraw a line after a carriage return as well.
        self._redraws = self._stream.isatty() or type(self._stream).__module__.startswith("ipykernel")
        self._next_s = time.monotonic() + (0 if self._redraws else LINE_S)
        self._width = 0  # characters of the unfinished line

    def __call__(self, stage: str) -> Progress:
        """Begin a stage.

        Args:
            stage: The name of the stage, which its line begins with.

        Returns:
            The function that the stage calls with its progress.
        """
        self.close()

        def update(done: int, total: int, text: str = "") -> None:
            ends = self._redraws and done >= total
            if time.monotonic() >= self._next_s or ends:
                self._next_s = time.monotonic() + (REDRAW_S if self._redraws else LINE_S)
                self._show(" ".join(f"{stage}: {done}/{total} {printable(text)}".split()), ends)

        return update

    def close(self) -> None:
        """End the line of the last stage, if it is unfinished."""
        if self._width:
            self._write("\n")
        self._width = 0

    def _show(self, line: str, ends: bool) -> None:
        """Write a line, over the unfinished one where lines are redrawn."""
        if not self._redraws:
            self._write(f"{line}\n")
            return
        room = shutil.get_terminal_size().columns - 1
        line = line if len(line) <= room else f"{line[: room - 1]}…"
        self._write("\r" + line.ljust(self._width))
        self._width = len(line)
        if ends:
            self.close()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def as_progress(progress: Progress | bool | None, stage: str) -> Progress:
    """Return the function that a `progress` argument stands for.

    Args:
        progress: A function of (done, total, text); True for text on standard error; False or None for
            nothing.
        stage: Name of the work, which the text begins with.

    Returns:
        The function that the work calls with its progress.

    Raises:
        ConfigError: For anything else.
    """
    if progress is None or isinstance(progress, bool):
        return TextDisplay()(stage) if progress else silent
    if not callable(progress):
        raise ConfigError(
            f"progress is True, to show text, or a function of (done, total, text), got {progress!r:.80}"
        )
    return progress
