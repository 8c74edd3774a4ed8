"""Plug-ins: objects of a user in place of strategies and predictors that hwnas knows by name.

A plug-in is given as an object, or as a class or another function that makes one. An object is a template:
hwnas works on copies of it, so one object can serve several searches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from inspect import Parameter, signature
from typing import Any, TypeGuard

from hwnas.errors import HwnasError


def methods_of(protocol: type) -> list[str]:
    """Return the names of a protocol's public methods."""
    return [name for name, value in vars(protocol).items() if callable(value) and name[0] != "_"]


def is_factory(plugin: object, protocol: type) -> TypeGuard[Callable[..., Any]]:
    """Return whether a plug-in is a class or function that makes an object of a protocol.

    Args:
        plugin: What a user gave.
        protocol: Class of the protocol.
    """
    made = any(hasattr(plugin, method) for method in methods_of(protocol))
    return isinstance(plugin, type) or (callable(plugin) and not made)


def new_object(plugin: Any, protocol: type, kind: str, error: type[HwnasError], **arguments: Any) -> Any:
    """Return an object of a protocol that shares no state with any other.

    Args:
        plugin: An object, which is copied, or a class or function, which is called.
        protocol: Class of the protocol.
        kind: What the plug-in is, for messages, such as "strategy".
        error: Class of the error that is raised.
        **arguments: Arguments of the class or function.

    Returns:
        The object.

    Raises:
        HwnasError: Of the class `error`, if the object lacks a method or cannot be copied.
    """
    if is_factory(plugin, protocol):
        check_methods(made := plugin(**arguments), protocol, kind, error)
        return made
    check_methods(plugin, protocol, kind, error)
    try:
        return copy.deepcopy(plugin)
    except Exception as problem:
        name = type(plugin).__name__
        raise error(
            f"{kind} {name} cannot be copied ({type(problem).__name__}: {problem}); give its class, or a "
            f"function that makes a {name}, in place of the object"
        ) from problem


def check_methods(plugin: object, protocol: type, kind: str, error: type[HwnasError]) -> None:
    """Check that an object has the methods of a protocol.

    Args:
        plugin: The object.
        protocol: Class of the protocol.
        kind: What the plug-in is, for messages, such as "strategy".
        error: Class of the error that is raised.

    Raises:
        HwnasError: Of the class `error`, if the object lacks a method. The message names the method.
    """
    for method in methods_of(protocol):
        if not callable(getattr(plugin, method, None)):
            value = f"{plugin!r:.60}"
            raise error(
                f"{kind} {type(plugin).__name__ if value.startswith('<') else value} has no method "
                f"{method!r}; the protocol {protocol.__module__}.{protocol.__name__} has the methods "
                f"{', '.join(methods_of(protocol))}"
            )


def option_names(function: Callable[..., Any], skipped: int = 0) -> list[str] | None:
    """Return the names of a function's parameters; None if it takes any keyword.

    Args:
        function: A function or class.
        skipped: Number of parameters at the beginning to leave out.
    """
    parameters = list(signature(function).parameters.values())[skipped:]
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters]


def identity(plugin: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the parameters of a plug-in, by which stored results are told apart.

    Args:
        plugin: An object, class or function. An object may have an attribute `parameters`, a dict of what it
            was made with; a `functools.partial` has its keywords.

    Returns:
        The name of the class or function, and the parameters as plain data of JSON.
    """
    if isinstance(plugin, partial):
        name, parameters = identity(plugin.func)
        return name, {**parameters, **plain(plugin.keywords)}
    if hasattr(plugin, "__qualname__"):  # a class or function
        return plugin.__qualname__, {}
    return type(plugin).__qualname__, plain(getattr(plugin, "parameters", {}))


def plain(value: Any) -> Any:
    """Return a value as plain data of JSON; plug-ins in it are replaced by their identity."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # a number or array of numpy
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    name, parameters = identity(value)
    return {"name": name, **parameters} if parameters else name
