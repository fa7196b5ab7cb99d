"""Names of namespaces and patterns over them.

A namespace is written as dotted parts, each quoted as in SQL where it is not a plain word: `public.orders`,
`shop."order lines"`, `"a.b"."12 "" inch"`. Case is kept as written. A pattern is the same with `*` and `?` in unquoted
parts, or `re:` and a regular expression over the whole written name; a pattern with fewer parts than a name is
compared with the name's last parts, so `orders` finds `public.orders`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dsync.protocol.errors import RequestError

_PLAIN = re.compile(r"[^\W\d][\w$]*\Z")
_FILTER = re.compile(r'(?P<name>(?:"(?:[^"]|"")*"|[^"=])+)=(?P<condition>.*)', re.DOTALL)
_TOKEN = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"|(?P<plain>[^".:]+)')


def join(parts: Iterable[str]) -> str:
    """The written form of a name: `join(("public", "a b")) == 'public."a b"'`."""
    return ".".join(part if _PLAIN.match(part) else '"' + part.replace('"', '""') + '"' for part in parts)


def split(name: str) -> tuple[str, ...]:
    """The parts of a written name; the inverse of `join`.

    Raises:
        RequestError: the quoting is not closed, or a part is empty.
    """
    parts, rest = _parse(name, name)
    if rest:
        raise RequestError(f"namespace {name!r}: cannot read {rest!r}; quote names that contain a colon")
    return tuple(text for text, _ in parts)


def _parse(text: str, whole: str) -> tuple[list[tuple[str, bool]], str]:
    """Parts with whether each was quoted, and what follows them (empty, or from a colon on)."""
    parts: list[tuple[str, bool]] = []
    position = 0
    while True:
        match = _TOKEN.match(text, position)
        if match is None:
            raise RequestError(f"namespace {whole!r}: a name is empty or its quotes are not closed")
        quoted = match.group("quoted")
        parts.append((match.group("plain"), False) if quoted is None else (quoted.replace('""', '"'), True))
        position = match.end()
        if position == len(text) or text[position] == ":":
            return parts, text[position:]
        if text[position] != ".":
            raise RequestError(f"namespace {whole!r}: a dot was expected after {text[:position]!r}")
        position += 1


@dataclass(frozen=True)
class Pattern:
    """Which namespaces are meant, and under which name they arrive (`NS[:TO]`)."""

    text: str

    def __post_init__(self) -> None:
        _ = self._compiled

    @cached_property
    def _compiled(self) -> tuple[re.Pattern[str] | None, tuple[re.Pattern[str], ...], tuple[str, ...]]:
        if self.text.startswith("re:"):
            try:
                return re.compile(self.text[3:]), (), ()
            except re.error as exc:
                raise RequestError(f"namespace {self.text!r}: not a regular expression: {exc}") from exc
        parts, rest = _parse(self.text, self.text)
        target = split(rest[1:]) if rest else ()
        if target and any(not quoted and _is_glob(part) for part, quoted in parts):
            raise RequestError(f"namespace {self.text!r}: a pattern cannot be mapped onto one name")
        return None, tuple(_glob(part, quoted) for part, quoted in parts), target

    @property
    def target(self) -> tuple[str, ...]:
        """The parts of TO; empty where the namespace keeps its name."""
        return self._compiled[2]

    def matches(self, namespace: str) -> bool:
        expression, globs, _ = self._compiled
        if expression is not None:
            return expression.fullmatch(namespace) is not None
        parts = split(namespace)
        if len(globs) > len(parts):
            return False
        return all(glob.fullmatch(part) for glob, part in zip(globs, parts[len(parts) - len(globs) :], strict=True))

    def matches_any(self, namespaces: Iterable[str]) -> bool:
        """One of them: a namespace and what it is a partition of."""
        return any(self.matches(name) for name in namespaces)

    def rename(self, namespace: str) -> str:
        """The name at the sink: leading parts that TO does not give are kept."""
        parts = split(namespace)
        if not self.target:
            return namespace
        return join((*parts[: max(0, len(parts) - len(self.target))], *self.target))


def _is_glob(part: str) -> bool:
    return "*" in part or "?" in part


def _glob(part: str, quoted: bool) -> re.Pattern[str]:
    if quoted:
        return re.compile(re.escape(part), re.DOTALL)
    pieces = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in part)
    return re.compile("".join(pieces), re.DOTALL)


def literal(text: str) -> str:
    """The one name that a pattern without wildcards means, for sources that cannot list their namespaces.

    Raises:
        RequestError: the pattern has wildcards or is a regular expression.
    """
    if text.startswith("re:"):
        raise RequestError(f"namespace {text!r}: this source cannot list its namespaces, so give a full name")
    parts, _ = _parse(text, text)
    if any(not quoted and _is_glob(part) for part, quoted in parts):
        raise RequestError(f"namespace {text!r}: this source cannot list its namespaces, so give a full name")
    return join(part for part, _ in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which of a source's namespaces are meant: by default all."""

    include: tuple[str, ...] = ()
    """`NS[:TO]` patterns; none means every namespace."""
    exclude: tuple[str, ...] = ()
    """Patterns of what is left out of those."""

    def __post_init__(self) -> None:
        """Raises RequestError where a pattern cannot be read, so that nobody is contacted for nothing."""
        _patterns(self.include)
        for pattern in _patterns(self.exclude):
            if pattern.target:
                raise RequestError(
                    f"exclude {pattern.text!r}: what is left out has no name at the sink; leave out the TO"
                )

    def of(self, namespaces: Sequence[str], *, parents: Mapping[str, str] | None = None) -> dict[str, str]:
        """As `select`."""
        return select(namespaces, self.include, self.exclude, parents=parents)


def _patterns(texts: Sequence[str]) -> list[Pattern]:
    return [Pattern(text) for text in texts]


def select(
    namespaces: Sequence[str],
    include: Sequence[str],
    exclude: Sequence[str] = (),
    *,
    parents: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Source name → sink name for every namespace that a pattern includes and none excludes, in the given order.

    No include pattern means all. The first pattern that matches decides the name. `parents` says which namespaces are
    partitions, and of which: they are chosen with it, keeping their names, and left out with it.

    Raises:
        RequestError: a pattern matches nothing, an exclude has a name to map onto, everything is excluded, or two
            namespaces would arrive under one name.
    """
    wanted, unwanted = _patterns(include), _patterns(exclude)
    for pattern in unwanted:
        # What is misspelt here would be copied.
        if not any(pattern.matches(name) for name in namespaces):
            raise RequestError(
                f"exclude pattern {pattern.text!r} matches nothing at the source; "
                "`dsync plan` without --exclude lists what is there"
            )
    for pattern in wanted:
        if not any(pattern.matches(name) for name in namespaces):
            raise RequestError(
                f"namespace pattern {pattern.text!r} matches nothing at the source; "
                "`dsync plan` without -n lists what is there"
            )
    chosen: dict[str, str] = {}
    for name in namespaces:
        names = lineage(name, parents or {})
        if any(pattern.matches_any(names) for pattern in unwanted):
            continue
        first = next((pattern for pattern in wanted if pattern.matches(name)), None)
        if first is not None:
            chosen[name] = first.rename(name)
        elif not wanted or any(pattern.matches_any(names) for pattern in wanted):
            chosen[name] = name
    if unwanted and not chosen:
        raise RequestError("every namespace that is selected is excluded too; leave out less")
    _refuse_collisions(chosen)
    return chosen


def split_filters(texts: Sequence[str]) -> list[tuple[Pattern, str]]:
    """`NS=CONDITION` as pattern and condition; an equals sign inside of quotes belongs to the name.

    Raises:
        RequestError: one of them is not written so.
    """
    found = []
    for text in texts:
        match = _FILTER.fullmatch(text)
        if match is None or not match["condition"].strip():
            raise RequestError(f'filter {text!r}: write it as NS=CONDITION, as in "public.orders=total > 100"')
        pattern = Pattern(match["name"].strip())
        if pattern.target:
            raise RequestError(f"filter {pattern.text!r}: give the name at the source alone; -n maps names")
        found.append((pattern, match["condition"].strip()))
    return found


def lineage(name: str, parents: Mapping[str, str]) -> list[str]:
    """A namespace, what it is a partition of, and so on upwards."""
    names = [name]
    while (parent := parents.get(names[-1])) and parent not in names:
        names.append(parent)
    return names


def _refuse_collisions(chosen: dict[str, str]) -> None:
    sources: dict[str, str] = {}
    for source, target in chosen.items():
        if target in sources:
            raise RequestError(f"{sources[target]} and {source} would both arrive as {target}; map one elsewhere")
        sources[target] = source
