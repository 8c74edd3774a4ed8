"""What a path names, before it is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hwnas.errors import StoreError


def expanded(path: str | Path) -> Path:
    """Replace a leading ``~`` or ``~user`` of a path by the home folder, as a shell does.

    A name without a folder, such as ``~lut.csv``, stays as it is unless it is the name of a user.

    Args:
        path: A path that a user wrote.

    Returns:
        The path with the home folder.

    Raises:
        StoreError: If the home folder is not known.
    """
    text = os.path.expanduser(path)
    home, slash, _ = text.partition("/")
    if home == "~" or (home[:1] == "~" and slash):
        raise StoreError(
            f"{path}: the home folder {home} is not known; write the whole path, or ./{text} for a folder of "
            "that name here"
        )
    return Path(text)


def check_regular(path: str | Path) -> None:
    """OSError for a path that names no file (or folder): one would wait at a named pipe for ever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a pipe, a socket or a device, not a file")


def standard_stream(path: str | Path) -> int | None:
    """Return the descriptor, 1 or 2, of the standard output or error that a path names (``/dev/stdout``).

    Args:
        path: The path of a file, a device or a pipe.

    Returns:
        The descriptor, or None if the path names neither of the two streams, or nothing.
    """
    for descriptor in (1, 2):
        try:
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:  # the path names nothing, or the stream is closed
            continue
    return None
