"""What a newer server's schema says that an older sink cannot understand, and what of it can be said otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.lexer import Token, name_after, tokens

_NAMED_NOT_NULL_SINCE = 18
_MAINTAIN_SINCE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something that servers know from some version on."""

    since: int
    """Major version."""
    words: tuple[str, ...]
    """Bare words in a row by which it is recognised."""
    name: str
    in_list: bool = False
    """It stands inside a list of columns, not after it."""


_FEATURES = (
    Feature(since=15, words=("NULLS", "NOT", "DISTINCT"), name="NULLS NOT DISTINCT"),
    Feature(since=18, words=("NOT", "ENFORCED"), name="a constraint that is NOT ENFORCED"),
    Feature(since=18, words=("WITHOUT", "OVERLAPS"), name="a key WITHOUT OVERLAPS", in_list=True),
    Feature(since=18, words=("NOT", "NULL", "NO", "INHERIT"), name="NOT NULL NO INHERIT"),
)
# Other kinds hold queries and bodies, in which these words may mean something else.
_CHECKED_KINDS = frozenset({"TABLE", "FOREIGN TABLE", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "INDEX"})


def unknown_features(entry: TocEntry, sink_major: int) -> list[str]:
    """Return what in a definition the sink's version does not know and nothing older can express."""
    if entry.desc not in _CHECKED_KINDS or all(feature.since <= sink_major for feature in _FEATURES):
        return []
    pieces = tuple(tokens(entry.defn))
    # Deeper than its own clauses a definition holds expressions, and `CHECK (NOT enforced)` is about a column.
    depth = 1 if entry.desc in ("TABLE", "FOREIGN TABLE") else 0
    found = [
        f"{feature.name} ({feature.since})"
        for feature in _FEATURES
        if feature.since > sink_major and _has_words(pieces, feature.words, depth + feature.in_list)
    ]
    if sink_major < 18:
        if entry.desc == "TABLE" and _has_virtual_column(pieces):
            found.append("a virtual generated column (18)")
        if entry.desc == "CONSTRAINT" and _has_words(pieces, ("NOT", "NULL"), depth):
            found.append("a NOT NULL constraint that is NOT VALID (18)")
        if entry.desc == "FK CONSTRAINT" and _has_period(pieces):
            found.append("a foreign key over a PERIOD (18)")
    return found


def without_table_not_null(definition: str, sink_major: int) -> str:
    """Return a CREATE TABLE in which NOT NULL stands as older servers know it.

    From 18 on pg_dump writes `NOT NULL column` as a constraint of the table where the column is inherited; before,
    only ALTER COLUMN … SET NOT NULL can say that.
    """
    if sink_major >= _NAMED_NOT_NULL_SINCE:
        return definition
    pieces = tuple(tokens(definition))
    table = name_after(pieces, "TABLE")
    kept, columns, begin, end = _elements(definition, pieces)
    if table is None or not columns:
        return definition
    rest = ",".join(kept)
    changes = "".join(
        f"\nALTER TABLE ONLY {table.identifier.as_string(None)} ALTER COLUMN {column} SET NOT NULL;"
        for column in columns
    )
    return f"{definition[:begin]}{rest}{definition[end:].rstrip()}{changes}"


def without_maintain(statement: str, sink_major: int) -> str | None:
    """Return a GRANT or REVOKE without the privilege MAINTAIN, which came with 17; None where nothing is left."""
    if sink_major >= _MAINTAIN_SINCE:
        return statement
    pieces = tuple(tokens(statement))
    end = next((i for i, token in enumerate(pieces) if token.is_word("ON")), len(pieces))
    # In parentheses stand columns, and one may be called so.
    at = next((i for i, token in enumerate(pieces[:end]) if token.depth == 0 and token.is_word("MAINTAIN")), None)
    if at is None:
        return statement
    if pieces[at - 1].text == ",":
        return statement[: pieces[at - 1].start] + statement[pieces[at].end :]
    if pieces[at + 1].text == ",":
        return statement[: pieces[at].start] + statement[pieces[at + 1].end :]
    return None


def _elements(definition: str, pieces: Sequence[Token]) -> tuple[list[str], list[str], int, int]:
    """The list in parentheses of a CREATE TABLE: elements to keep, columns of NOT NULL constraints, its extent."""
    opening = next((token for token in pieces if token.text == "(" and token.depth == 0), None)
    if opening is None:
        return [], [], 0, 0
    closing = next(token for token in pieces if token.text == ")" and token.depth == 0)
    inner = [token for token in pieces if opening.start < token.start < closing.start]
    kept: list[str] = []
    columns: list[str] = []
    begin = opening.end
    for element, stop in _split(inner, closing.start):
        column = _not_null_column(element)
        if column is None:
            kept.append(definition[begin:stop])
        else:
            columns.append(column)
        begin = stop + 1
    return kept, columns, opening.end, closing.start


def _split(inner: Sequence[Token], end: int) -> Iterator[tuple[list[Token], int]]:
    element: list[Token] = []
    for token in inner:
        if token.text == "," and token.depth == 1:
            yield element, token.start
            element = []
        else:
            element.append(token)
    yield element, end


def _not_null_column(element: Sequence[Token]) -> str | None:
    """The column, as written, of `[CONSTRAINT name] NOT NULL column`; a column's own definition begins with a name."""
    at = 2 if element and element[0].is_word("CONSTRAINT") else 0
    if len(element) >= at + 3 and element[at].is_word("NOT") and element[at + 1].is_word("NULL"):
        return element[at + 2].text
    return None


def _has_words(pieces: Sequence[Token], words: tuple[str, ...], depth: int) -> bool:
    return any(
        all(token.depth == depth and token.is_word(word) for token, word in zip(pieces[at:], words, strict=False))
        for at in range(len(pieces) - len(words) + 1)
    )


def _has_virtual_column(pieces: Sequence[Token]) -> bool:
    for at, token in enumerate(pieces[:-3]):
        if token.depth == 1 and token.is_word("AS") and pieces[at - 1].is_word("ALWAYS") and pieces[at + 1].text == "(":
            closing = next((p for p in pieces[at + 2 :] if p.text == ")" and p.depth == 1), None)
            following = pieces[pieces.index(closing) + 1] if closing is not None else None
            if following is not None and not following.is_word("STORED"):
                return True
    return False


def _has_period(pieces: Sequence[Token]) -> bool:
    """`PERIOD` before another name; a column may be called so, but is then followed by a comma or parenthesis."""
    return any(
        token.is_word("PERIOD") and token.depth == 1 and following.name is not None
        for token, following in pairwise(pieces)
    )
