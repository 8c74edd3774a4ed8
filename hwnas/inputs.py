"""Inputs of an artefact: those that it was made from, stored with it, are compared with the present ones.

Inputs are plain data. Some of them are sections of the experiment, stored as a whole. Both sides are brought
to one canonical form before they are compared: old names of fields are replaced by new ones (`RENAMED` in
`hwnas.config`), and a field that one side lacks has its default. A new field with a default, or a renamed
field, therefore leaves every older artefact up to date.

Artefacts store all fields of a section, including those at their default. A stored value that was the default
of an older hwnas is explicit, so a default that changed since is a difference. Only where the field did not
exist yet is the present default compared: the first default of a field must mean what hwnas did before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from hwnas.config import Experiment, renamed


def canonical(inputs: Mapping[str, Any], sections: Mapping[str, str]) -> dict[str, Any]:
    """Return inputs in canonical form.

    Args:
        inputs: Plain data.
        sections: Names of the experiment's sections in the inputs, by their places. A place is a dotted key;
            "" stands for the inputs themselves.

    Returns:
        The inputs with the present names of fields, and with the default of every absent one. Inputs that are
        no field of a section are kept.
    """
    result = dict(inputs)
    for place, section in sections.items():
        result = _complete_at(place.split(".") if place else [], result, section)
    return result


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested mappings as pairs of a dotted key and a value.

    Args:
        data: Plain data.
        prefix: Text before each key.

    Yields:
        The pairs, in the order of the data.
    """
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _complete_at(path: list[str], data: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Complete the section at a path of nested data."""
    if not path:
        model: Any = Experiment.model_fields[section].annotation
        return _complete(model, renamed(data, section))
    inner = data.get(path[0])
    if not isinstance(inner, Mapping):
        return dict(data)
    return {**data, path[0]: _complete_at(path[1:], inner, section)}


def _complete(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults of absent fields, also in nested sections."""
    result = dict(data)
    for name, field in model.model_fields.items():
        if name not in data:
            if not field.is_required():
                result[name] = to_jsonable_python(field.get_default(call_default_factory=True))
        elif isinstance(value := data[name], Mapping):
            parts = [part for part in (field.annotation, *get_args(field.annotation)) if _is_model(part)]
            for part in parts:
                if get_origin(field.annotation) is dict:  # sections by free names
                    result[name] = {key: _complete(part, entry) for key, entry in value.items()}
                else:
                    result[name] = _complete(part, value)
    return result


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
