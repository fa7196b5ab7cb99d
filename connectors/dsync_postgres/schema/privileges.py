"""Owners, grants and roles: what of them the sink can take over, and what has to be listed instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from dsync_postgres.schema.archive import TocEntry
from dsync_postgres.schema.downgrade import without_maintain
from dsync_postgres.schema.facts import SinkFacts
from dsync_postgres.schema.lexer import Token, statements, tokens
from dsync_postgres.schema.server import RoleFacts

# What ALTER … OWNER TO is for: pg_restore's list. Everything else belongs to the owner of what it is part of.
_OWNED_KINDS = frozenset(
    {
        "AGGREGATE",
        "COLLATION",
        "CONVERSION",
        "DOMAIN",
        "EVENT TRIGGER",
        "FOREIGN DATA WRAPPER",
        "FOREIGN TABLE",
        "FUNCTION",
        "MATERIALIZED VIEW",
        "OPERATOR",
        "OPERATOR CLASS",
        "OPERATOR FAMILY",
        "PROCEDURAL LANGUAGE",
        "PROCEDURE",
        "SCHEMA",
        "SEQUENCE",
        "SERVER",
        "STATISTICS",
        "TABLE",
        "TEXT SEARCH CONFIGURATION",
        "TEXT SEARCH DICTIONARY",
        "TYPE",
        "VIEW",
    }
)
_DROP = "DROP "
# Names that mean a role without being one.
_PSEUDO_ROLES = frozenset({"PUBLIC", "CURRENT_USER", "CURRENT_ROLE", "SESSION_USER"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What can be said at the sink of an entry that grants or revokes."""

    statements: tuple[str, ...]
    missing_roles: tuple[str, ...]
    """Named by statements that were left out, and not there."""
    closed_roles: tuple[str, ...]
    """Granted something on to others, or have default privileges, and we may not act for them."""
    lost_maintain: bool = False
    """The privilege MAINTAIN is not known there."""


def owner_statement(entry: TocEntry) -> str | None:
    """Return the statement that gives an object to its owner; None for what has no owner of its own."""
    if entry.owner is None or entry.desc not in _OWNED_KINDS:
        return None
    owner = sql.Identifier(entry.owner).as_string(None)
    if entry.defn.startswith("--"):
        # A schema that every database has is not created; its DROP is a comment too.
        return f"ALTER {entry.desc} {sql.Identifier(entry.tag).as_string(None)} OWNER TO {owner};"
    if not entry.drop.startswith(_DROP):
        # An identity column's sequence goes with its table.
        return None
    target = entry.drop.removeprefix(_DROP).rstrip().removesuffix(";")
    return f"ALTER {target} OWNER TO {owner};"


def may_own(role: str, sink: SinkFacts) -> bool:
    """True where we may give things to that role and still work on them afterwards."""
    known = sink.roles.get(role)
    return known is not None and (sink.server.is_superuser or (known.can_become and known.has_its_rights))


def usable_grants(entry: TocEntry, sink: SinkFacts) -> Grants:
    """Return the statements of an ACL or DEFAULT ACL entry whose roles the sink has."""
    usable: list[str] = []
    missing: list[str] = []
    closed: list[str] = []
    lost_maintain = False
    for statement, grantor in _with_grantors(entry.defn):
        unknown = [role for role in _roles(statement, grantor) if role not in sink.roles]
        if unknown:
            missing += unknown
            continue
        closed_to_us = [role for role in _acting(statement, grantor) if not sink.roles[role].can_become]
        if closed_to_us and not sink.server.is_superuser:
            closed += closed_to_us
            continue
        known_words = without_maintain(statement, sink.server.major)
        lost_maintain |= known_words != statement
        if known_words is not None:
            usable.append(_as_grantor(known_words, grantor, sink))
    return Grants(
        statements=tuple(usable),
        missing_roles=tuple(dict.fromkeys(missing)),
        closed_roles=tuple(dict.fromkeys(closed)),
        lost_maintain=lost_maintain,
    )


def policy_roles(entry: TocEntry) -> list[str]:
    """Return the roles that a policy is for; empty means everybody."""
    pieces = tuple(tokens(entry.defn))
    at = next((i for i, token in enumerate(pieces) if token.depth == 0 and token.is_word("TO")), None)
    return [] if at is None else list(_role_list(pieces[at + 1 :]))


def is_restrictive(entry: TocEntry) -> bool:
    """True for a policy that takes rows away instead of showing them."""
    return any(token.depth == 0 and token.is_word("RESTRICTIVE") for token in tokens(entry.defn))


def mapped_user(entry: TocEntry) -> str:
    """Return the role of a USER MAPPING entry."""
    pieces = tuple(tokens(entry.defn))
    at = next(i for i, token in enumerate(pieces) if token.is_word("FOR"))
    return pieces[at + 1].name or ""


def _with_grantors(definition: str) -> Iterator[tuple[str, str | None]]:
    """Yield each grant with the role that SET SESSION AUTHORIZATION made its grantor."""
    grantor: str | None = None
    for statement in statements(definition):
        pieces = tuple(tokens(statement))
        if pieces[0].is_word("SET") and pieces[1].is_word("SESSION"):
            grantor = pieces[3].name
        elif pieces[0].is_word("RESET"):
            grantor = None
        else:
            yield statement, grantor


def _roles(statement: str, grantor: str | None) -> Iterator[str]:
    """Yield every role a statement names: those it acts for, and grantees."""
    yield from _acting(statement, grantor)
    pieces = tuple(tokens(statement))
    for at, token in enumerate(pieces):
        if token.depth == 0 and token.is_word("TO", "FROM"):
            yield from _role_list(pieces[at + 1 :])


def _acting(statement: str, grantor: str | None) -> Iterator[str]:
    """Yield the grantor, and the role whose default privileges are altered: only its members may."""
    if grantor is not None:
        yield grantor
    pieces = tuple(tokens(statement))
    for at, token in enumerate(pieces):
        if token.depth == 0 and token.is_word("ROLE") and pieces[at - 1].is_word("FOR"):
            yield from _role_list(pieces[at + 1 :])


def _role_list(pieces: Sequence[Token]) -> Iterator[str]:
    """Yield names up to the first that no comma follows; bare PUBLIC and the like are none."""
    for at, token in enumerate(pieces):
        if at % 2:
            if token.text != ",":
                return
        elif token.name is not None and not (token.is_word(*_PSEUDO_ROLES)):
            yield token.name


def _as_grantor(statement: str, grantor: str | None, sink: SinkFacts) -> str:
    if grantor is None:
        return statement
    role = sql.Identifier(grantor).as_string(None)
    if sink.server.is_superuser:
        return f"SET SESSION AUTHORIZATION {role}; {statement} RESET SESSION AUTHORIZATION;"
    return f"SET ROLE {role}; {statement} RESET ROLE;"


def missing_owner_remedy(roles: Mapping[str, RoleFacts], owner: str) -> str:
    """Return what to do so that objects get that owner."""
    if owner not in roles:
        return f'create the role "{owner}" at the sink first, or use --no-owner'
    return f'make the sink role a member of "{owner}", or use --no-owner'
