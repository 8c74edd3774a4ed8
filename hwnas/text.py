"""Text that others wrote, names and errors with names in them, made fit for a terminal, a log or a page."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Sequence

# Control characters, those that turn the direction of text, and what XML and UTF-8 cannot hold.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    """Text with a replacement character for each that is not to be printed. Tabs and line ends stay."""
    return UNPRINTABLE.sub("\ufffd", text)


def one_line(error: Exception) -> str:
    """What an exception of another library says, in one line."""
    return " ".join(str(error).split())


def listed(texts: Sequence[str], most: int = 20) -> str:
    """Join texts for a message.

    Args:
        texts: The texts.
        most: How many are shown; the others are counted.

    Returns:
        The texts, separated by commas.
    """
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most:,} more"


def command_line(*words: object) -> str:
    """Join words into one line that a POSIX shell splits into the same words.

    Args:
        words: The command and its arguments.

    Returns:
        The command line, with quotes where a word needs them.
    """
    return shlex.join(str(word) for word in words)


class PrintableFormatter(logging.Formatter):
    """Lines of a log in which nothing moves the cursor or turns colours on."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
