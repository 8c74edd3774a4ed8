"""The stages by name: what each is made from, how it is made, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwnas.pipeline import export, profile, report, search, train, verify
from hwnas.progress import Progress

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run


@dataclass(frozen=True)
class Stage:
    """What a stage is made from, plain data that is compared, how it is made, and what is made from it.

    `make` returns plain data on what it made and the artefacts it left, relative to the run's folder.
    `forget` removes what must go before the stage can be made afresh, besides artefacts that it overwrites.
    """

    inputs: Callable[[Run], dict[str, Any]]
    make: Callable[[Run, Progress], tuple[dict[str, Any], list[str]]]
    followers: tuple[str, ...]
    forget: Callable[[Run], None] = lambda run: None


STAGES: dict[str, Stage] = {
    "profile": Stage(profile.inputs, profile.make, ("search", "export", "verify", "report"), profile.forget),
    "train": Stage(train.inputs, train.make, ("search", "export", "verify", "report"), train.forget),
    "search": Stage(search.inputs, search.make, ("export", "verify", "report"), search.forget),
    "export": Stage(export.inputs, export.make, ("verify", "report")),
    "verify": Stage(verify.inputs, verify.make, ("report",)),
    "report": Stage(report.inputs, report.make, ()),
}
