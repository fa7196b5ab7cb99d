"""Typed options of a connector: one class, parsed at the edge, whose repr hides secrets.

Options are query parameters on the URI, or keys of an endpoint in the flow file. A secret option may be
`env:NAME` or `file:PATH`; it is resolved in the plug-in's process and nowhere else.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from dsync.protocol.errors import OptionError
from dsync.sdk.references import resolve

_LIST_TYPES = (tuple, list, set, frozenset)
_NAME = re.compile(r"[A-Za-z][\w.-]{0,62}")
# What may follow the colon after a host: a port, then a path, another host, or nothing.
_PORT = re.compile(r"\d*(?:[/,]|\Z)")


class Options(BaseModel):
    """Base of a connector's options; every field carries a `description`, which `connectors show` prints.

    Secrets are `pydantic.SecretStr`. An unknown name is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def secrets(self) -> frozenset[str]:
        """The values that no log may show."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return frozenset(value.get_secret_value() for value in values if isinstance(value, SecretStr))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionInfo:
    """One option as `connectors show` prints it."""

    name: str
    type: str
    default: str
    """Empty where it must be given, or where there is none."""
    description: str
    is_secret: bool
    is_required: bool


class HasOptions(Protocol):
    """What of a `ConnectorSpec` is needed to read its options."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> Callable[[], type[Options]]: ...

    @property
    def passes_unknown_options(self) -> Callable[[str], bool]: ...


def parse_options(spec: HasOptions, uri: str, given: Mapping[str, str] | None = None) -> tuple[str, Options]:
    """Take the connector's options out of a URI's query; what belongs to the URI itself stays in it.

    `given` are options from elsewhere (the flow file); one that the URI has too is an error, not a choice.

    Raises:
        OptionError: a name is unknown or given twice, a value is not allowed, a reference cannot be resolved.
    """
    fields = spec.options().model_fields
    base, kept, values = _take(spec, fields, uri)
    for name, value in (given or {}).items():
        if name not in fields:
            raise _unknown(spec, name, fields)
        if name in values:
            raise OptionError(f"{spec.name}: option {name} is given in the URI and beside it; leave one out")
        values[name] = value
    parsed = {name: _value(spec, name, field, values[name]) for name, field in fields.items() if name in values}
    try:
        options = spec.options()(**parsed)
    except ValidationError as exc:
        raise OptionError(_complaints(spec, exc)) from None
    return base + ("?" + "&".join(kept) if kept else ""), options


def _take(spec: HasOptions, fields: Mapping[str, FieldInfo], uri: str) -> tuple[str, list[str], dict[str, str]]:
    """Split a URI into what precedes the query, the parameters that stay and the options."""
    base, _, query = uri.partition("?")
    _refuse_cut_login(spec, base, query)
    kept: list[str] = []
    values: dict[str, str] = {}
    for parameter in filter(None, query.split("&")):
        raw_name, _, raw_value = parameter.partition("=")
        # A plus sign means itself here, as libpq reads it; only forms make a blank of it.
        name = unquote(raw_name)
        if name in fields:
            if name in values:
                raise OptionError(f"{spec.name}: option {name} is given twice; leave one out")
            values[name] = unquote(raw_value)
        elif spec.passes_unknown_options(name):
            kept.append(parameter)
        else:
            raise _unknown(spec, name, fields)
    return base, kept, values


def _refuse_cut_login(spec: HasOptions, base: str, query: str) -> None:
    """A password with a question mark ends what looks like the host, and its rest looks like options.

    Raises:
        OptionError: it is so; nothing of it is repeated.
    """
    rest = base.partition("://")[2]
    after_colon = rest.partition(":")[2]
    if "@" in query and "@" not in rest and not rest.startswith("[") and not _PORT.match(after_colon):
        raise OptionError(
            f"{spec.name}: the URI cannot be read: percent-encode the reserved characters (@ : / ? # %) of user and "
            "password, or use ?password=env:NAME"
        )


def _unknown(spec: HasOptions, name: str, fields: Iterable[str]) -> OptionError:
    names = sorted(fields)
    if not _NAME.fullmatch(name):
        # It may be anything, a part of a password too.
        return OptionError(
            f"{spec.name}: what follows the question mark of the URI is no option; write name=value, joined by &, with "
            "reserved characters percent-encoded"
        )
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        advice = "did you mean " + " or ".join(near) + "?"
    else:
        advice = "it has " + (", ".join(names) if names else "no options")
    return OptionError(f"{spec.name}: there is no option {name!r}; {advice} (`dsync connectors show {spec.name}`)")


def _value(spec: HasOptions, name: str, field: FieldInfo, text: str) -> object:
    if _is_secret(field):
        return resolve(text, what=f"{spec.name}: option {name}")
    if any(typing.get_origin(kind) in _LIST_TYPES for kind in _alternatives(field.annotation)):
        return [part for part in text.split(",") if part]
    return text


def _complaints(spec: HasOptions, error: ValidationError) -> str:
    def sentences() -> Iterator[str]:
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            name = ".".join(str(part) for part in problem["loc"][:1])
            if problem["type"] == "missing":
                yield f"option {name} must be given"
            else:
                yield f"option {name}: {problem['msg']}" if name else problem["msg"]

    return f"{spec.name}: " + "; ".join(sentences())


def describe_options(options: type[Options]) -> tuple[OptionInfo, ...]:
    """The options in the order of their declaration."""
    return tuple(
        OptionInfo(
            name=name,
            type=_type_name(field),
            default="" if field.is_required() or field.default is None else _plain(field.default),
            description=field.description or "",
            is_secret=_is_secret(field),
            is_required=field.is_required(),
        )
        for name, field in options.model_fields.items()
    )


def _plain(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, _LIST_TYPES):
        return ",".join(map(str, default))
    return str(getattr(default, "value", default))


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr in _alternatives(field.annotation)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of `A | B | None` without None; a plain type alone."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return (annotation,)


def _type_name(field: FieldInfo) -> str:
    return " | ".join(_one_type_name(kind) for kind in _alternatives(field.annotation))


def _one_type_name(kind: Any) -> str:
    if kind is SecretStr:
        return "secret"
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if origin in _LIST_TYPES:
        return f"{_one_type_name(typing.get_args(kind)[0])},…"
    return {str: "text", int: "integer", float: "number", bool: "true|false"}.get(
        kind, getattr(kind, "__name__", "text")
    )
