"""Reads just enough of the SQL that pg_dump writes: tokens, statements, qualified names.

Only the server understands SQL in full. This module tells words, names and literals apart, so that what stands
inside a string, a comment or a function's body is never taken for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from dsync_postgres.schema.errors import ArchiveError
from dsync_postgres.schema.names import TableName


class Kind(Enum):
    """What a token is."""

    WORD = auto()
    QUOTED = auto()
    STRING = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of SQL; white space and comments make none."""

    kind: Kind
    text: str
    """As written."""
    start: int
    depth: int
    """How many parentheses are open around it; a parenthesis itself counts as outside."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def name(self) -> str | None:
        """The identifier it stands for, None where it cannot be one."""
        if self.kind is Kind.WORD:
            return self.text
        if self.kind is Kind.QUOTED:
            return self.text[1:-1].replace('""', '"')
        return None

    def is_word(self, *words: str) -> bool:
        """True for a bare word that is one of these, given in upper case."""
        return self.kind is Kind.WORD and self.text.upper() in words


# Alternatives in the order in which the server's own scanner prefers them. Strings may span lines.
_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")+")
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_KINDS = {
    "escaped": Kind.STRING,
    "string": Kind.STRING,
    "dollar": Kind.STRING,
    "quoted": Kind.QUOTED,
    "word": Kind.WORD,
    "other": Kind.OTHER,
}


def tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a piece of SQL.

    Raises:
        ArchiveError: a string, a quoted name or a comment does not end.
    """
    at, depth = 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.group("other") in ("'", '"'):
            raise ArchiveError("reading a definition of the schema archive: a quote in it is not closed")
        # lastgroup is the group that closed last, so the tag inside a dollar quote never wins.
        group = match.lastgroup or "other"
        if group == "comment":
            at = _end_of_comment(text, match.end())
            continue
        at = match.end()
        if group == "space":
            continue
        piece = match.group()
        depth -= piece == ")"
        yield Token(_KINDS[group], piece, match.start(), depth)
        depth += piece == "("


def _end_of_comment(text: str, at: int) -> int:
    open_comments = 1
    while open_comments:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            raise ArchiveError("reading a definition of the schema archive: a comment in it is not closed")
        open_comments += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return at


def statements(text: str) -> list[str]:
    """Return the statements of a piece of SQL, each with its semicolon.

    Not for function bodies written as BEGIN ATOMIC, which hold semicolons of their own.
    """
    found: list[str] = []
    start = 0
    for token in tokens(text):
        if token.text == ";" and token.depth == 0:
            found.append(text[start : token.end].strip())
            start = token.end
    rest = text[start:].strip()
    return [*found, rest] if rest else found


def qualified_name(pieces: Sequence[Token], at: int) -> TableName | None:
    """Return the `schema.name` that begins at that token, None where there is none."""
    if at + 2 >= len(pieces) or pieces[at + 1].text != ".":
        return None
    schema, name = pieces[at].name, pieces[at + 2].name
    return None if schema is None or name is None else TableName(schema=schema, name=name)


def name_after(pieces: Sequence[Token], *words: str) -> TableName | None:
    """Return the first qualified name that follows one of these bare words outside parentheses.

    ONLY between them is passed over. A word that no such name follows is a name itself (`view`, `partition` and many
    others are not reserved), and the search goes on.
    """
    for at, token in enumerate(pieces):
        if token.depth == 0 and token.is_word(*words):
            following = at + 1
            if following < len(pieces) and pieces[following].is_word("ONLY"):
                following += 1
            name = qualified_name(pieces, following)
            if name is not None:
                return name
    return None
