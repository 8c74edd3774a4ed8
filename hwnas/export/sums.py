"""SHA256SUMS of a folder, for ``sha256sum -c SHA256SUMS``. It is written last: with it a folder is whole."""

from __future__ import annotations

from pathlib import Path

from hwnas.errors import ChecksumError
from hwnas.store import file_digest, write_text

SUMS_FILE = "SHA256SUMS"


def write_sums(folder: str | Path) -> None:
    """Write `SHA256SUMS` of all other files in a folder, by name."""
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    lines = [f"{file_digest(folder / name)}  {name}\n" for name in names if name != SUMS_FILE]
    write_text(folder / SUMS_FILE, "".join(lines))


def check_sum(path: Path) -> None:
    """ChecksumError if SHA256SUMS beside a file says that it is another one: a graph alone does not."""
    sums = path.with_name(SUMS_FILE)
    lines = sums.read_text(errors="replace").splitlines() if sums.is_file() else []
    known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if known.get(path.name, (found := file_digest(path))) != found:
        raise ChecksumError(f"{path} is not what {sums.name} beside it says; restore both from a copy")
