"""How a user opened a run, and the commands that open it again with the same settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

from hwnas.config import format_override
from hwnas.pipeline.folder import run_folder
from hwnas.text import command_line

FILE_COMMANDS = ("run", "profile", "train")  # commands that take an experiment file, not a run folder


@dataclass(frozen=True)
class Invocation:
    """The arguments with which a user opened a run.

    Messages build their commands from it, so that a command names the user's own file and settings.

    Attributes:
        directory: Folder of the run.
        config: Experiment file; None if the run was opened by its folder or from an `Experiment`.
        overrides: Fields that the user set, by dotted key.
        source: Run folder and latency table of `hwnas search RUN --table TABLE`; None otherwise.
        in_python: Whether `hwnas.run` opened the run, or was given objects that no command can name.
        has_data: Whether the user passed datasets.
    """

    directory: Path
    config: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    source: tuple[Path, Path] | None = None
    in_python: bool = False
    has_data: bool = False

    def command(self, name: str, *options: object) -> str:
        """Build the command line `hwnas NAME` for this run.

        Args:
            name: Name of a command that takes an experiment file or a run folder.
            options: Further words of the command line.

        Returns:
            One line for a POSIX shell.
        """
        words: list[object] = [self.directory]
        if name in FILE_COMMANDS:
            words = [self.config or self.directory / "config.yaml", "--run-dir", _run_dir(self.directory)]
        elif self.source is not None and name == "search":
            run, table = self.source
            words = [run, "--table", table, "--run-dir", _run_dir(self.directory)]
        return command_line("hwnas", name, *words, *_options(self.overrides, name), *options)

    def finish(self, name: str = "run") -> str:
        """Build the command, or the Python call, that makes the stages that the run lacks.

        Args:
            name: Name of the command; `hwnas.run` makes all stages.

        Returns:
            A command line or a Python expression.
        """
        if self.in_python:
            return self._call("hwnas.run")
        return self.command(name if self.source is None else "search")

    def remake(self, stage: str, stages: Sequence[str]) -> str:
        """Build the command, or the Python call, that makes a stage again.

        Args:
            stage: Name of the stage.
            stages: Stages that the user asked for. If it is this one alone, the command makes no other.

        Returns:
            A command line or a Python expression.
        """
        if self.in_python:
            return self._call("hwnas.run", f", restart={stage!r}")
        if self.source is not None and stage == "train":  # the supernet is that of the other run
            return replace(self, directory=_free_folder(self.directory)).finish()
        return self.command(self._maker(stage, stages), "--restart", stage)

    def elsewhere(self, stage: str, stages: Sequence[str]) -> str:
        """Build the command, or the Python call, that makes a stage in a new folder.

        Args:
            stage: Name of the stage.
            stages: Stages that the user asked for.

        Returns:
            A command line or a Python expression.
        """
        there = replace(self, directory=_free_folder(self.directory))
        if self.in_python or self.source is not None:
            return there.finish()
        if self.config is not None:
            return there.command(self._maker(stage, stages))
        copy = command_line("cp", "-r", self.directory, there.directory)
        return f"{copy} && {there.remake(stage, stages)}"

    def extend(self, evaluations: int) -> str:
        """Build the command, or the Python call, that continues a finished search.

        Args:
            evaluations: Number of evaluations of the whole search.

        Returns:
            A command line or a Python expression.
        """
        if self.has_data and self.source is None:
            return f"{self._call('hwnas.pipeline.open_run')}.make(['search'], extend=True)"
        if self.has_data:
            return self._call("", ", extend=True")
        others = {key: value for key, value in self.overrides.items() if key != "search.evaluations"}
        return replace(self, overrides=others).command("search", "--evaluations", evaluations)

    def _maker(self, stage: str, stages: Sequence[str]) -> str:
        """Name of the command that makes a stage."""
        if self.source is not None:
            return "search"
        alone = list(stages) == [stage] and (stage in FILE_COMMANDS) == (self.config is not None)
        return stage if alone else "run"

    def _call(self, function: str, more: str = "") -> str:
        """A Python call; `config`, `data` and `run` stand for the user's objects."""
        if self.source is not None:
            table = str(self.source[1])
            job = f"hwnas.pipeline.run_for_device(run, {table!r}, {str(self.directory)!r})"
            return f"{job}.make(['profile', 'search']{more})"
        config = "config" if self.config is None else repr(str(self.config))
        overrides = f", overrides={dict(self.overrides)!r}" if self.overrides else ""
        data = ", data=data" if self.has_data else ""
        return f"{function}({config}, run_dir={str(self.directory)!r}{overrides}{data}{more})"


def _options(overrides: Mapping[str, Any], name: str) -> list[object]:
    """The options that set these fields in a command."""
    words: list[object] = []
    for key, value in overrides.items():
        if key == "seed":
            words += ["--seed", value]
        elif key == "latency.budgets_ms" and isinstance(value, list) and name not in ("profile", "train"):
            words += [word for budget_ms in value for word in ("--latency-budget-ms", budget_ms)]
        else:
            words += ["--set", format_override(key, value)]
    return words


def _run_dir(directory: Path) -> Path:
    """A folder as --run-dir takes it: `run_folder` looks for other relative paths under runs/."""
    kept = directory.is_absolute() or (".." not in directory.parts and run_folder(directory) == directory)
    return directory if kept else directory.resolve()


def _free_folder(directory: Path) -> Path:
    """A path beside a folder that does not exist."""
    names = (directory.with_name(f"{directory.name}-{number}") for number in count(2))
    return next(path for path in names if not path.exists())
