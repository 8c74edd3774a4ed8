"""How long work reports itself: done, total, and a line of text. No display in here."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then by long work; raising KeyboardInterrupt in it stops the work."""

    def __call__(self, done: int, total: int, text: str = "") -> None: ...


def silent(done: int, total: int, text: str = "") -> None:
    """A Progress that shows nothing."""
