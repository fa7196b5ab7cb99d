"""Validation against the part of JSON Schema (draft 2020-12) that our own schemas use; anything else is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_ANNOTATIONS = {"$schema", "title", "description", "default"}
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def problems(value: Any, schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """What of the value is not as the schema says, with where it is; nothing where it fits."""
    for keyword, said in schema.items():
        if keyword not in _ANNOTATIONS:
            yield from _CHECKS[keyword](value, said, at, schema)


def _type(value: Any, said: Any, at: str, _: Any) -> Iterator[str]:
    names = [said] if isinstance(said, str) else said
    fits = any(isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)
    if not fits:
        yield f"{at}: it is no {' or '.join(names)}"


def _any_of(value: Any, said: Any, at: str, _: Any) -> Iterator[str]:
    if all(any(problems(value, one, at)) for one in said):
        yield f"{at}: it has none of the {len(said)} forms"


def _properties(value: Any, said: Any, at: str, _: Any) -> Iterator[str]:
    for name, schema in said.items():
        if isinstance(value, dict) and name in value:
            yield from problems(value[name], schema, f"{at}/{name}")


def _additional(value: Any, said: Any, at: str, schema: dict[str, Any]) -> Iterator[str]:
    for name in value.keys() - schema.get("properties", {}).keys() if isinstance(value, dict) else ():
        if said is False:
            yield f"{at}: there is no key {name}"
        else:
            yield from problems(value[name], said, f"{at}/{name}")


def _items(value: Any, said: Any, at: str, _: Any) -> Iterator[str]:
    for place, item in enumerate(value if isinstance(value, list) else ()):
        yield from problems(item, said, f"{at}/{place}")


def _when(kind: type | tuple[type, ...], fails: Any, what: str) -> Any:
    def check(value: Any, said: Any, at: str, _: Any) -> Iterator[str]:
        if isinstance(value, kind) and not isinstance(value, bool) and fails(value, said):
            yield f"{at}: {what} {said}"

    return check


_CHECKS: dict[str, Any] = {
    "type": _type,
    "anyOf": _any_of,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "required": _when(dict, lambda value, said: not set(said) <= value.keys(), "it lacks one of"),
    "enum": _when(object, lambda value, said: value not in said, "it is none of"),
    "pattern": _when(str, lambda value, said: not re.search(said, value), "it is not like"),
    "minimum": _when((int, float), lambda value, said: value < said, "it is less than"),
    "maximum": _when((int, float), lambda value, said: value > said, "it is more than"),
}
