"""The JSON Schema of a flow file, for editors: made of the model that reads one, so that the two cannot part."""

from __future__ import annotations

import json
from typing import Any

from dsync.cli.flow_file import FlowFile

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
"""`${NAME}` may stand for any value; what it stands for is checked when the file is read."""
_SIZE = {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt]?[Bb]?|[KkMmGgTt][Ii][Bb])\s*$"}
_TIME = {"type": "string", "pattern": r"^\s*([0-9]+(\.[0-9]+)?[dhms]?)+\s*$"}
_TIMES = ("retry-for",)
_SIZES = ("page-bytes", "memory-limit")
_ENDPOINT = {
    "type": "object",
    "properties": {"uri": {"type": "string", "description": "The URI itself; not a reference."}},
    "required": ["uri"],
    "additionalProperties": {
        "anyOf": [
            {"type": ["string", "number", "boolean"]},
            {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
        ]
    },
    "description": "The URI, and options of its connector beside it (`dsync connectors show NAME` lists them).",
}
_REFUSED: dict[str, Any] = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"(^|=)[0-9]+$|\$\{"}]
}
_REFUSALS: list[dict[str, Any]] = [
    *_REFUSED["anyOf"],
    {"type": "array", "items": _REFUSED},
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
]
_NUMBERS_BY_NAMESPACE = ("dead-letters",)
_ENDPOINTS = ("source", "sink")
_OF_THE_KEY = ("title", "description", "default")
_KEYWORDS = {"ge": "minimum", "le": "maximum"}
"""What pydantic calls a limit that it cannot tell the type of, as it is the case behind a validator of ours."""
_LISTS = {"namespace": "namespaces", "exclude": "", "filter": "", "rate-limit": ""}
"""A list that may also be one text; and its other name, if it has one."""


def flow_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12; `dsync flow-schema` prints it, docs/flow.schema.json is it."""
    made = FlowFile.model_json_schema(by_alias=True)
    properties = {name: _property(name, said) for name, said in made["properties"].items()}
    for name, other in _LISTS.items():
        if other:
            properties[other] = {**properties[name], "description": f"The same as `{name}`."}
    return {
        "$schema": _DIALECT,
        "title": "dsync flow file",
        "description": "Options of `dsync sync`, plan, doctor and verify, under the names of their flags, which win.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def flow_schema_text() -> str:
    return json.dumps(flow_schema(), indent=2, ensure_ascii=False) + "\n"


def _property(name: str, said: dict[str, Any]) -> dict[str, Any]:
    """One key as it is written: without null, and with the texts that mean a number or a mapping."""
    forms = [_form(form) for form in said.get("anyOf", [said]) if form.get("type") != "null"]
    if name in _SIZES:
        forms.append(_SIZE)
    if name in _TIMES:
        forms.append(_TIME)
    if name in _NUMBERS_BY_NAMESPACE:
        forms = list(_REFUSALS)
    if name in _ENDPOINTS:
        forms.append(_ENDPOINT)
    if name in _LISTS:
        forms.append({"type": "string"})
    if not any(form.get("type") == "string" and "enum" not in form and "pattern" not in form for form in forms):
        forms.append(_VARIABLE)
    shape = forms[0] if len(forms) == 1 else {"anyOf": forms}
    default = {"default": said["default"]} if said.get("default") is not None else {}
    return {"description": said["description"], **shape, **default}


def _form(said: dict[str, Any]) -> dict[str, Any]:
    return {_KEYWORDS.get(key, key): value for key, value in said.items() if key not in _OF_THE_KEY}
