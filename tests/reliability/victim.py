"""A process that is to be killed: it makes stages of a small run, and notes what it does outside its folder.

Notes are lines of JSON, each written at once, so they outlive a kill:

    {"stage": name}                     it was begun
    {"begun": id}                       the evaluation of an architecture
    {"stored": [id, metric, value]}     the store says that it has it
    {"struck": [step, file]}            the process kills itself at this step of writing
    {"steps": {stage: n}}               all is done, in so many steps of writing
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import hwnas.searching.executors as executors
from hwnas.pipeline import open_run
from hwnas.progress import Progress, silent
from hwnas.spaces import Architectures
from hwnas.store import Measurement, Store
from tests.reliability.faults import layer


def work(
    config: Path,
    folder: Path,
    stages: Sequence[str],
    notes: Path,
    strike: tuple[str, int] | None,
    stop_at: str | None = None,
) -> None:
    """Make stages of a run. `strike` is the stage, and the step of writing within it, to be killed at.

    The process stops itself when the stage `stop_at` begins, and waits there to be killed.
    """
    file = notes.open("ab", buffering=0)
    steps: Counter[str] = Counter()
    current = ""

    def note(**said: Any) -> None:
        file.write(json.dumps(said).encode() + b"\n")

    def told(step: str, path: str) -> None:
        steps[current] += 1
        if strike == (current, steps[current]):
            note(struck=[step, path])
            os.kill(os.getpid(), signal.SIGKILL)

    def display(stage: str) -> Progress:
        nonlocal current
        current = stage
        note(stage=stage)
        if stage == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        return silent

    evaluated, add_measurement = executors.evaluated, Store.add_measurement

    def noted_evaluation(space: Any, functions: Any, objective: str, genotype: Any) -> Any:
        note(begun=Architectures(space, np.array([genotype]))[0].id)
        return evaluated(space, functions, objective, genotype)

    def noted_measurement(store: Store, measurement: Measurement) -> None:
        add_measurement(store, measurement)
        note(stored=[measurement.architecture, measurement.metric, measurement.value])

    executors.evaluated, Store.add_measurement = noted_evaluation, noted_measurement
    with layer(told):
        open_run(config, run_dir=folder).make(stages, display)
    note(steps=steps)
