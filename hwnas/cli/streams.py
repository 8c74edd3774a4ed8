"""Standard output and error whose encoding lacks characters that hwnas prints."""

from __future__ import annotations

import codecs
import sys

from rich.console import Console

HANDLER = "hwnas-ascii"
SUBSTITUTES = {
    "±": "+-",
    "×": "x",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "–": "-",
    "—": "-",
    "−": "-",
    "→": "->",
    "…": "...",
    "·": ".",
    "µ": "u",
    "²": "^2",
    **{chr(code): "+" for code in range(0x2500, 0x2580)},  # corners and crossings of lines
    **dict.fromkeys("─━╴╶╸╺", "-"),
    **dict.fromkeys("│┃", "|"),
}


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: ASCII for the characters that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(SUBSTITUTES.get(character, "?") for character in text), error.end


codecs.register_error(HANDLER, _substitute)


class AnyEncoding(Console):
    """A console whose tables have the same columns in every encoding.

    In other encodings than UTF-8 rich would draw frames that leave less room and cut figures off.
    """

    @property
    def encoding(self) -> str:
        """The encoding that rich chooses lines for; `never_fail_to_encode` substitutes them."""
        return "utf-8"


def never_fail_to_encode() -> None:
    """Let standard output and error print substitutes for characters that their encoding lacks.

    A result must not be lost because a terminal or pipe is not UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a caller may have put another object in its place
            stream.reconfigure(errors=HANDLER)
