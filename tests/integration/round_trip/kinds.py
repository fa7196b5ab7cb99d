"""The types that columns of a generated schema may have: built-in ones, and ones that the schema defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st

from tests.integration.round_trip.names import literal, quoted
from tests.integration.round_trip.values import ASCENDING, MODIFIED, RANGES, WITHOUT_VALUES

Make = Callable[[Random], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A type, and how to make the text of a value of it."""

    sql: str
    """As a column definition has it."""
    make: Make
    """The text of one value; None is NULL."""
    ascending: tuple[str, ...] = ()
    """Values in the order of the type, where its order is known."""
    never_null: bool = False
    is_array: bool = False
    is_builtin: bool = False
    has_array: bool = True
    multirange: str = ""
    """The multirange type of a range."""

    def cell(self, random: Random) -> str:
        """A value as an expression in SQL."""
        value = self.make(random)
        return "NULL" if value is None else f"CAST({literal(value)} AS {self.sql})"


def often_null(make: Callable[[Random], str]) -> Make:
    """Sometimes NULL instead."""
    return lambda random: None if random.random() < 0.15 else make(random)


def from_pool(pool: Sequence[str]) -> Make:
    """Any of these; nothing but NULL where there are none."""
    return often_null(lambda random: random.choice(pool)) if pool else lambda random: None


def builtin(name: str, pool: Sequence[str]) -> Kind:
    """A built-in type with values of this pool."""
    return Kind(
        sql=name,
        make=from_pool(pool),
        ascending=tuple(value for value in ASCENDING.get(name, ()) if value in pool),
        is_builtin=True,
        has_array=name not in WITHOUT_VALUES,
    )


def modified(name: str) -> Kind:
    """A built-in type with a modifier."""
    return Kind(sql=name, make=from_pool(MODIFIED[name]), is_builtin=True)


def array_of(element: Kind) -> Kind:
    """Arrays of up to three dimensions, counted from anywhere."""
    # The one built-in type whose values have commas in them.
    delimiter = ";" if element.sql == "box" else ","

    def make(random: Random) -> str:
        shape = random.choice(((), (1,), (3,), (2, 2), (1, 2, 1)))
        if not shape:
            return "{}"
        bounds = "".join(f"[{low}:{low + size - 1}]" for size in shape if (low := random.choice((1, 0, -5, 7))) < 9)
        text = _items(shape, lambda: _item(element.make(random)), delimiter)
        return f"{bounds}={text}" if random.random() < 0.5 else text

    return Kind(sql=f"{element.sql}[]", make=often_null(make), is_array=True, is_builtin=element.is_builtin)


def _items(shape: tuple[int, ...], item: Callable[[], str], delimiter: str) -> str:
    size, inner = shape[0], shape[1:]
    return "{" + delimiter.join(_items(inner, item, delimiter) if inner else item() for _ in range(size)) + "}"


def _item(value: str | None) -> str:
    return "NULL" if value is None else _escaped(value)


def _escaped(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def composite(name: str, fields: Sequence[Kind]) -> Kind:
    """A row of these."""

    def make(random: Random) -> str:
        values = [field.make(random) for field in fields]
        return "(" + ",".join("" if value is None else _escaped(value) for value in values) + ")"

    return Kind(sql=name, make=often_null(make))


def enum(name: str, labels: Sequence[str]) -> Kind:
    """One of these, in this order."""
    return Kind(sql=name, make=from_pool(labels), ascending=tuple(labels))


def domain(name: str, base: Kind, *, not_null: bool) -> Kind:
    """Another name of a type, with rules that all values of that keep to."""

    def make(random: Random) -> str | None:
        value = base.make(random)
        while not_null and value is None:
            value = base.make(random)
        return value

    return Kind(
        sql=name,
        make=make,
        ascending=base.ascending,
        never_null=not_null or base.never_null,
    )


def range_of(name: str, multirange: str, bounds: Sequence[str], *, is_builtin: bool = False) -> Kind:
    """From one of the bounds, which ascend, to a later one; or without a bound, or empty."""
    return Kind(
        sql=name,
        make=often_null(lambda random: _range(random, bounds)),
        is_builtin=is_builtin,
        multirange=multirange,
    )


def multirange_of(name: str, bounds: Sequence[str], *, is_builtin: bool = False) -> Kind:
    """None to three ranges."""

    def make(random: Random) -> str:
        return "{" + ",".join(_range(random, bounds) for _ in range(random.randrange(4))) + "}"

    return Kind(sql=name, make=often_null(make), is_builtin=is_builtin)


def _range(random: Random, bounds: Sequence[str]) -> str:
    if random.random() < 0.15:
        return "empty"
    low, high = sorted(random.choices(range(len(bounds)), k=2))
    texts = ("" if random.random() < 0.2 else _escaped(bounds[at]) for at in (low, high))
    # The last value of some types, perhaps before an infinity, has no successor, which the canonical form would need.
    last = len(bounds) - 2
    return random.choice("[(" if low < last else "[") + ",".join(texts) + random.choice(")]" if high < last else ")")


def builtins(pools: Mapping[str, tuple[str, ...]]) -> list[Kind]:
    """All built-in types with their values."""
    kinds = [builtin(name, pool) for name, pool in pools.items()]
    for name, (bound, multirange) in RANGES.items():
        bounds = [value for value in ASCENDING[bound] if value in pools[bound]]
        kinds += [
            range_of(name, multirange, bounds, is_builtin=True),
            multirange_of(multirange, bounds, is_builtin=True),
        ]
    return kinds


class Types:
    """The types of one example, defined as they are drawn."""

    def __init__(self, draw: st.DrawFn, base: Sequence[Kind], fresh: Callable[[], str]) -> None:
        self._draw = draw
        self._base = list(base)
        self._fresh = fresh
        self.own: list[Kind] = []
        self.statements: list[str] = []

    def define(self, random: Random) -> None:
        """Draw another type and the statement that makes it."""
        form = self._draw(st.sampled_from((self._enum, self._domain, self._composite, self._range)))
        self.own += form(random)

    def any(self) -> Kind:
        """Draw a type for a column."""
        form = self._draw(st.sampled_from("bbbbbmmooooaa"))
        if form == "m":
            return modified(self._draw(st.sampled_from(sorted(MODIFIED))))
        if form == "a":
            element = self.any()
            return element if element.is_array or not element.has_array else array_of(element)
        return self._draw(st.sampled_from(self.own if form == "o" and self.own else self._base))

    def ordered(self) -> Kind:
        """Draw a type whose order is known."""
        return self._draw(st.sampled_from([kind for kind in (*self._base, *self.own) if len(kind.ascending) > 1]))

    def _enum(self, random: Random) -> list[Kind]:
        name = self._fresh()
        labels = self._draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=6, unique=True))
        self.statements.append(f"CREATE TYPE {name} AS ENUM ({', '.join(map(literal, labels))})")
        return [enum(name, labels)]

    def _domain(self, random: Random) -> list[Kind]:
        name, base = self._fresh(), self.any()
        not_null = bool(base.make(random)) and self._draw(st.integers(0, 4)) == 0
        rules = ["NOT NULL"] if not_null else []
        if self._draw(st.booleans()):
            rules.append(f"CONSTRAINT {quoted('che%ck; --')} CHECK (octet_length(VALUE::text) < 5000000)")
        if self._draw(st.booleans()):
            rules.append("CHECK (VALUE IS NULL OR VALUE IS NOT NULL OR true)")
        if self._draw(st.integers(0, 3)) == 0 and not base.sql.startswith("reg"):
            rules.insert(0, f"DEFAULT {base.cell(random)}")
        self.statements.append(f"CREATE DOMAIN {name} AS {base.sql} {' '.join(rules)}")
        return [domain(name, base, not_null=not_null)]

    def _composite(self, random: Random) -> list[Kind]:
        name = self._fresh()
        fields = [self.any() for _ in range(self._draw(st.integers(0, 3)))]
        parts = ", ".join(f"{quoted(FIELDS[n])} {field.sql}" for n, field in enumerate(fields))
        self.statements.append(f"CREATE TYPE {name} AS ({parts})")
        return [composite(name, fields)]

    def _range(self, random: Random) -> list[Kind]:
        name, multirange, bound = self._fresh(), self._fresh(), self.ordered()
        self.statements.append(
            f"CREATE TYPE {name} AS RANGE (subtype = {bound.sql}, multirange_type_name = {multirange})"
        )
        return [range_of(name, multirange, bound.ascending), multirange_of(multirange, bound.ascending)]


LABELS = ("a", "A", "", " ", "it's", 'quo"te', "back\\slash", "a,b", "{}", "NULL", "😀", "é" * 31, "%s", "new\nline")
FIELDS = ("a", "two words", 'quo"te')
