"""Array literals: a column of values as one parameter, which the server takes apart with `unnest`."""

from __future__ import annotations

from collections.abc import Sequence

from dsync_postgres.sink.apply.records import Value

# No text in UTF-8 has these bytes, so what is joined by them can be escaped as one.
_BETWEEN, _ABSENT = b"\xff", b"\xfe"


def array_of(values: Sequence[Value]) -> bytes:
    """The values as an array literal; each is given to its type's input function exactly as it is."""
    try:
        joined, absent = _BETWEEN.join(values), 0  # type: ignore[arg-type]  # None raises, which is what tells
    except TypeError:
        joined = _BETWEEN.join([_ABSENT if value is None else value for value in values])
        absent = values.count(None)
    if joined.count(_BETWEEN) != len(values) - 1 or joined.count(_ABSENT) != absent:
        return _one_by_one(values)
    quoted = _escaped(joined).replace(_BETWEEN, b'","')
    if not absent:
        return b'{"%b"}' % quoted
    return (b'{"%b"}' % quoted).replace(b'"%b"' % _ABSENT, b"NULL")


def _one_by_one(values: Sequence[Value]) -> bytes:
    return b"{%b}" % b",".join([b"NULL" if value is None else b'"%b"' % _escaped(value) for value in values])


def _escaped(text: bytes) -> bytes:
    if b"\\" in text:
        text = text.replace(b"\\", b"\\\\")
    return text.replace(b'"', b'\\"') if b'"' in text else text


def numbers(values: Sequence[int]) -> bytes:
    """Integers as an array literal."""
    return b"{%b}" % b",".join([b"%d" % value for value in values])
