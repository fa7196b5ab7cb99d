"""Hypothesis strategies for the values that travel, built from the classes' own annotations."""

from __future__ import annotations

import dataclasses
import enum
import types as builtin_types
import typing
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from dsync.protocol import types as t

TEXT = st.text(max_size=20)
BYTES = st.binary(max_size=40)
# The narrowest number on the wire is uint32; the others are wider.
NUMBERS = st.integers(min_value=0, max_value=2**31 - 1)
TIMES = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))

_BY_FIELD: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    (t.Bucket, "sum"): st.integers(min_value=0, max_value=2**128 - 1),
    # How a stream is routed travels as metadata, not in the message.
    (t.StreamRequest, "header"): st.just(""),
    (t.StreamRequest, "value"): st.just(""),
    (t.StreamChangesRequest, "header"): st.just(""),
    (t.StreamChangesRequest, "value"): st.just(""),
    # The plan's snapshot is dsync.v1's; GeneratePlan has none.
    (t.Plan, "snapshot"): st.just(b""),
}
# adiom.v1 knows two of the types: what travels in it has one of them.
ADIOM_TYPES = st.sampled_from([t.PageType.BSON, t.PageType.JSON])
_ADIOM_ONLY = {
    (t.SourceCapabilities, "data_types"),
    (t.SinkCapabilities, "data_types"),
    (t.WriteUpdatesRequest, "type"),
    (t.StreamRequest, "type"),
    (t.TransformInfo, "request_type"),
    (t.TransformInfo, "response_types"),
    (t.TransformRequest, "request_type"),
    (t.TransformRequest, "response_type"),
}


def values(cls: type) -> st.SearchStrategy[Any]:
    """Any value of one of our dataclasses."""
    hints = typing.get_type_hints(cls)
    if cls is t.Page:
        return _pages()
    if cls is t.ChangeFrame:
        return _frames()
    fields = {field.name: _field(cls, field.name, hints[field.name]) for field in dataclasses.fields(cls)}
    return st.builds(cls, **fields)


def _field(cls: type, name: str, hint: Any) -> st.SearchStrategy[Any]:
    special = _BY_FIELD.get((cls, name))
    if special is not None:
        return special
    return _any(hint, ADIOM_TYPES if (cls, name) in _ADIOM_ONLY else None)


def _any(hint: Any, page_types: st.SearchStrategy[t.PageType] | None) -> st.SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (builtin_types.UnionType, typing.Union):
        return st.one_of([st.none() if a is type(None) else _any(a, page_types) for a in arguments])
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*(_any(a, page_types) for a in arguments))
    if origin in (tuple, frozenset):
        items = st.lists(_any(arguments[0], page_types), max_size=3)
        return items.map(frozenset) if origin is frozenset else items.map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        key, value = (_any(argument, page_types) for argument in arguments)
        return st.dictionaries(key, value, max_size=3)
    if origin is not None and issubclass(origin, Sequence):
        return st.lists(_any(arguments[0], page_types), max_size=3)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return values(hint)
    if isinstance(hint, type) and issubclass(hint, enum.IntEnum):
        if page_types is not None and hint is t.PageType:
            return page_types
        # UNKNOWN is what a value becomes that we do not know: in a list it would be left out.
        return st.sampled_from([member for member in hint if member.value])
    if hint == t.Buffer:
        return BYTES
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        bytes: BYTES,
        int: NUMBERS,
        float: st.floats(allow_nan=False),
        bool: st.booleans(),
        datetime: TIMES,
    }
    return plain[hint]


def _pages() -> st.SearchStrategy[t.Page]:
    """A packed body or a reference: single records are packed before they travel in dsync.v1."""
    types = st.sampled_from([member for member in t.PageType if member.value])
    body = {"packed": BYTES}, {"ref": values(t.PageRef)}
    return st.one_of([st.builds(t.Page, type=types, rows=NUMBERS, next_cursor=BYTES, **kind) for kind in body])


@st.composite
def _frames(draw: st.DrawFn) -> t.ChangeFrame:
    """Columns of one length, and records that make up the body; what they mean is not looked at on the way."""
    records = draw(st.lists(BYTES, max_size=5))
    relations = draw(values(t.ChangeRelation).map(lambda relation: (relation,)))
    return t.ChangeFrame(
        type=draw(st.sampled_from([member for member in t.ChangeType if member.value])),
        cursor=draw(BYTES),
        transaction=draw(NUMBERS),
        index=draw(NUMBERS),
        first_index=draw(NUMBERS),
        relations=relations,
        operations=bytes(draw(st.sampled_from(t.Operation)) for _ in records),
        relation_of=bytes(2 * len(records)),
        key_hashes=b"".join(draw(st.binary(min_size=8, max_size=8)) for _ in records),
        sizes=b"".join(len(record).to_bytes(4, "little") for record in records),
        body=b"".join(records),
        commits=tuple(draw(st.lists(values(t.ChangeCommit), max_size=2))),
        time=draw(st.none() | TIMES),
        position=draw(NUMBERS),
    )
