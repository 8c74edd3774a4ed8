"""Rules of a conformance suite, and what their functions need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from hwnas.errors import MissingExtraError


class ConformanceError(AssertionError):
    """A plug-in breaks a rule; the message names the rule and the values."""


class NotApplicable(Exception):
    """A rule does not apply to a plug-in, or cannot be checked on this machine."""


@dataclass(frozen=True)
class Rule:
    """One rule of a suite. Call it with the plug-in, as the suite's `check` function.

    `subject` makes of a plug-in what `function` takes.
    """

    name: str
    statement: str
    function: Callable[[Any], None]
    subject: Callable[..., Any]

    def __call__(self, plugin: Any, **options: Any) -> None:
        """Check the rule.

        Args:
            plugin: The plug-in.
            **options: As for the suite's `check` function.

        Raises:
            ConformanceError: If the plug-in breaks the rule, or raises an error of its own.
            NotApplicable: If the rule does not apply.
            MissingExtraError: If an optional package is not installed.
        """
        try:
            self.function(self.subject(plugin, **options))
        except (NotApplicable, MissingExtraError):
            raise
        except ConformanceError as error:
            raise ConformanceError(f"rule {self.name}: {self.statement} {error}") from None
        except Exception as error:
            raise ConformanceError(
                f"rule {self.name}: {self.statement} {type(error).__name__}: {error}"
            ) from error

    def __str__(self) -> str:
        return self.name


class Suite:
    """The rules of one kind of plug-in, in the order in which they are defined."""

    def __init__(self, subject: Callable[..., Any]) -> None:
        """Begin without rules.

        Args:
            subject: Makes of a plug-in, and options, what the functions of the rules take.
        """
        self.subject = subject
        self.rules: list[Rule] = []

    def rule(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Add a function as a rule, its docstring as the statement. A decorator."""
        self._add(function.__name__, function, function)
        return function

    def each(
        self, cases: Mapping[str, Any]
    ) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
        """Add a function of the subject and a case as one rule a case. A decorator.

        Args:
            cases: The cases by name.
        """

        def add(function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
            for name, case in cases.items():
                self._add(f"{function.__name__}[{name}]", function, partial(_with_case, function, case))
            return function

        return add

    def _add(self, name: str, documented: Callable[..., None], function: Callable[[Any], None]) -> None:
        statement = " ".join((documented.__doc__ or "").split())
        self.rules.append(Rule(name, statement, function, self.subject))


def _with_case(function: Callable[[Any, Any], None], case: Any, subject: Any) -> None:
    function(subject, case)


def check_rules(rules: Iterable[Rule], plugin: Any, **options: Any) -> None:
    """Check the rules that apply to a plug-in, in order.

    Args:
        rules: Rules of one suite.
        plugin: The plug-in.
        **options: As for the suite's `check` function.

    Raises:
        ConformanceError: For the first rule that the plug-in breaks.
        MissingExtraError: If an optional package is not installed.
    """
    for rule in rules:
        with suppress(NotApplicable):
            rule(plugin, **options)


def require(condition: Any, message: str) -> None:
    """Raise ConformanceError with a message unless a condition holds."""
    if not condition:
        raise ConformanceError(message)


def require_error(
    errors: type[Exception] | tuple[type[Exception], ...], pattern: str, call: Callable[[], Any], what: str
) -> Exception:
    """Require that a call raises an error whose message has a pattern.

    Args:
        errors: The class of the error, or several.
        pattern: Regular expression that the message contains.
        call: The function that is called.
        what: What the call does, for messages.

    Returns:
        The error.

    Raises:
        ConformanceError: If the call raises no error, or one with another message.
    """
    try:
        value = call()
    except errors as error:
        require(re.search(pattern, str(error)), f"{what}: the message {str(error)!r} has no {pattern!r}.")
        return error
    raise ConformanceError(f"{what}: no error was raised, but {value!r:.80} returned.")
