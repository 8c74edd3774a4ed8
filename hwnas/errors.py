"""Every error that hwnas raises on purpose.

    HwnasError
    ├── ConfigError          an experiment file or an option is wrong
    ├── SpaceError           a search space or an architecture is wrong
    ├── DataError            a dataset is missing, unreadable or unusable
    │   └── DamagedImagesError    image files cannot be decoded
    ├── StoreError           a run folder or an artefact cannot be read or written
    │   └── ChecksumError    an artefact is not what was written
    ├── TableError           a latency table is wrong or does not fit
    ├── DeviceError          a device cannot be used
    │   └── TimingError      it gave unusable timings
    ├── TrainingError        training cannot go on
    ├── EvaluationError      a network cannot be evaluated
    ├── SearchError          a search cannot go on
    │   └── InfeasibleError  nothing satisfies the constraints
    ├── ExportError          an exported model is not equal to the one it came from
    └── MissingExtraError    an optional dependency is not installed

A message says which value, which limit, and what to do about it. The command prints the message alone
and exits with 1; anything that is not an HwnasError is a defect of hwnas and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class HwnasError(Exception):
    """Base of every error that hwnas raises on purpose."""


class ConfigError(HwnasError):
    """An experiment file or an option is wrong."""


class SpaceError(HwnasError):
    """A search space or an architecture is wrong."""


class DataError(HwnasError):
    """A dataset is missing, unreadable or unusable."""


class DamagedImagesError(DataError):
    """Image files cannot be decoded; `files` maps the path of each to the reason."""

    def __init__(self, message: str, files: Mapping[str, str] | None = None) -> None:
        """Keep the files beside the message.

        Args:
            message: The message.
            files: The reason for each file, by its path.
        """
        super().__init__(message)
        self.files = dict(files or {})


class StoreError(HwnasError):
    """A run folder or an artefact cannot be read or written."""


class ChecksumError(StoreError):
    """An artefact is not what was written."""


class TableError(HwnasError):
    """A latency table is wrong or does not fit."""


class DeviceError(HwnasError):
    """A device cannot be used.

    `model` is the index of the model that the device cannot open or run; None for any other error.
    """

    def __init__(self, message: str, model: int | None = None) -> None:
        super().__init__(message)
        self.model = model


class TimingError(DeviceError):
    """A device gave unusable timings."""


class TrainingError(HwnasError):
    """Training cannot go on."""


class EvaluationError(HwnasError):
    """A network cannot be evaluated, such as one whose outputs are not finite; other networks can."""


class SearchError(HwnasError):
    """A search cannot go on."""


class InfeasibleError(SearchError):
    """Nothing satisfies the constraints; the message holds the smallest reachable value."""


class ExportError(HwnasError):
    """An exported model is not equal to the one it came from."""


class MissingExtraError(HwnasError):
    """An optional dependency is not installed; the message holds the install command."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'hwnas[{extra}]'")


def known_names(name: object, names: Iterable[str]) -> str:
    """What may be named instead of an unknown name, and which of it was probably meant."""
    every = list(names)
    near = get_close_matches(str(name), every, 1)
    return f"known: {', '.join(every)}" + (f" (did you mean {near[0]!r}?)" if near else "")
