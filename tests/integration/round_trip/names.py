"""Names that break naive copiers: of schemas, tables, columns, types and everything else that has one."""

from __future__ import annotations

from hypothesis import strategies as st

_NAME_BYTES = 63

NASTY = (
    "Order",
    "select",
    "table",
    "user",
    "ONLY",
    "two words",
    " lead",
    "trail ",
    "a.b",
    "a:b",
    "a,b",
    'quo"te',
    '"',
    "it's",
    "$$",
    "$1",
    "%s",
    "%(name)s",
    "100%",
    "%%",
    "{0}",
    "back\\slash",
    "\\N",
    "\\.",
    "--",
    "/*",
    "*",
    "?",
    "re:.*",
    "x",
    "t",
    "r",
    "id",
    "_id",
    "row",
    "tuple",
    "ctid_",
    "oid",
    "_dsync2",
    "dsync",
    "_DSYNC",
    "_dsyncx",
    "new\nline",
    "tab\t",
    "\r",
    "\x01",
    "\x7f",
    "ümläut",
    "Ümläut",
    "名前",
    "😀",
    "👩‍👩‍👧",
    "e\u0301",
    "\u202eright",
    "\ufeff",
    "\U0010ffff",
    "null",
    "NaN",
    "1",
    "0x",
    "(a)",
    "[]",
    ";",
    "a" * _NAME_BYTES,
    "a" * (_NAME_BYTES - 1) + "b",
    "é" * 31,
    "public",
)


def quoted(*parts: str) -> str:
    """A name as SQL takes it, of dotted parts."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def literal(text: str) -> str:
    """A string constant in SQL."""
    return "'" + text.replace("'", "''") + "'"


# Surrogates are no characters, and no name holds a zero byte.
_CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")

NAMES: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(NASTY),
    st.text(_CHARACTERS, min_size=1, max_size=12).filter(lambda name: len(name.encode()) <= _NAME_BYTES),
)
"""A name of at most 63 bytes."""
