"""The stages by name: what each is made from, how it is made, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hwnas.pipeline import export, profile, report, search, train, verify
from hwnas.progress import Progress

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run


@dataclass(frozen=True)
class Stage:
    """What a stage is made from, plain data that is compared, how it is made, and what is made from it.

    `sections` are the experiment's sections in its inputs, by their places; see `hwnas.inputs`.
    `check` raises what would stop the stage, before anything is changed. It gets the stages that are made
    earlier in the same command, whose results it cannot check, and whether the stage is made again.
    `make` returns plain data on what it made and the artefacts it left, relative to the run's folder.
    `forget` removes what must go before the stage can be made afresh, besides artefacts that it overwrites.
    """

    inputs: Callable[[Run], dict[str, Any]]
    make: Callable[[Run, Progress], tuple[dict[str, Any], list[str]]]
    followers: tuple[str, ...]
    check: Callable[[Run, Sequence[str], bool], None]
    forget: Callable[[Run], None] = lambda run: None
    sections: Mapping[str, str] = field(default_factory=dict)


STAGES: dict[str, Stage] = {
    "profile": Stage(
        profile.inputs,
        profile.make,
        ("search", "export", "verify", "report"),
        profile.check,
        profile.forget,
    ),
    "train": Stage(
        train.inputs,
        train.make,
        ("search", "export", "verify", "report"),
        train.check,
        train.forget,
        {"training": "training"},
    ),
    "search": Stage(
        search.inputs,
        search.make,
        ("export", "verify", "report"),
        search.check,
        search.forget,
        {"search": "search"},
    ),
    "export": Stage(
        export.inputs, export.make, ("verify", "report"), export.check, sections={"export": "export"}
    ),
    "verify": Stage(verify.inputs, verify.make, ("report",), verify.check),
    "report": Stage(report.inputs, report.make, (), report.check, sections={"search.search": "search"}),
}


def needed_by(name: str) -> list[str]:
    """Name the stages that a stage is made from, in order.

    Args:
        name: Name of the stage.

    Returns:
        Names of the earlier stages.
    """
    return [other for other, stage in STAGES.items() if name in stage.followers]
