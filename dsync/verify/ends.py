"""The two ends of a verification: what each can do, and how its namespaces look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dsync.protocol.errors import MissingObjectError, UnsupportedError
from dsync.protocol.fallback import extensions_of
from dsync.protocol.interface import Connector
from dsync.protocol.types import DescribeRequest, Extensions, Info, NamespaceDescription, PageType
from dsync.verify.algorithm import Algorithm
from dsync.verify.pairing import Pair, pair_described
from dsync.verify.progress import identity_of

Descriptions = Mapping[str, NamespaceDescription]
"""By name; a name that is absent is one the end does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyEnd:
    """A connector with what it said of itself."""

    connector: Connector
    name: str
    """For people: "source" or "target"."""
    info: Info
    extensions: Extensions

    @classmethod
    async def meet(cls, connector: Connector, name: str) -> VerifyEnd:
        """Ask who this is."""
        info = await connector.get_info()
        return cls(connector=connector, name=name, info=info, extensions=await extensions_of(connector))

    def serves(self, service: str) -> bool:
        return service in self.extensions.services

    @property
    def counts_exactly(self) -> bool:
        return self.serves("ChecksumService")

    async def count_rows(self, namespace: str) -> int:
        """How many rows it has; an estimate where it knows no better."""
        if self.counts_exactly:
            return await self.connector.count_rows(namespace)
        return await self.connector.count(namespace)

    @property
    def reads_by_id(self) -> bool:
        return self.info.source is not None and self.info.source.get_by_ids

    def require_documents(self) -> None:
        """Raises UnsupportedError where rows cannot be read back from it as BSON."""
        if self.info.source is None:
            raise UnsupportedError(
                f"verify: the {self.name} ({self.info.db_type}) cannot be read back; compare with --quick, "
                "or with an end that can be a source"
            )
        offered = (*self.info.source.data_types, *self.extensions.read_types)
        if PageType.BSON not in offered:
            raise UnsupportedError(f"verify: the {self.name} ({self.info.db_type}) does not give its records as BSON")

    async def describe(self, namespaces: Iterable[str]) -> Descriptions | None:
        """What it knows of these namespaces, without those it does not have; None where it serves no schema."""
        if not self.serves("SchemaService"):
            return None
        wanted = tuple(namespaces)
        try:
            described = await self.connector.describe(DescribeRequest(namespaces=wanted))
        except MissingObjectError:
            # It refuses a list with a name it does not know: take everything, and choose.
            described = await self.connector.describe(DescribeRequest())
        found = {description.namespace: description for description in described.namespaces}
        return {name: found[name] for name in wanted if name in found}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Both ends, and what they make possible together."""

    source: VerifyEnd
    target: VerifyEnd
    source_descriptions: Descriptions | None
    target_descriptions: Descriptions | None
    algorithm: Algorithm | None
    """How both compute checksums where the data is; None: they do not, or mean different things by them."""

    @classmethod
    def of(cls, source: tuple[VerifyEnd, Descriptions | None], target: tuple[VerifyEnd, Descriptions | None]) -> Ends:
        """The ends with their descriptions."""
        return cls(
            source=source[0],
            target=target[0],
            source_descriptions=source[1],
            target_descriptions=target[1],
            algorithm=_common_algorithm(source[0].extensions, target[0].extensions),
        )

    def pair(self, source: str, target: str) -> Pair:
        """A namespace and its counterpart."""
        if self.source_descriptions is None or self.target_descriptions is None:
            return Pair(source=source, target=target)
        return pair_described(
            self.source_descriptions[source],
            self.target_descriptions[target],
            compare_types=_share(self.source.extensions.schema_dialect, self.target.extensions.schema_dialect),
            # Pages do not carry what the database computes; its own checksums can.
            keep_generated=self.algorithm is not None,
        )

    def have_ids(self, pair: Pair) -> bool:
        """False where one end knows that its rows have no key: their `_id` then says where they lie."""
        known = [
            descriptions[name]
            for descriptions, name in (
                (self.source_descriptions, pair.source),
                (self.target_descriptions, pair.target),
            )
            if descriptions is not None
        ]
        return all(description.key for description in known)

    @property
    def are_recognised(self) -> bool:
        """Both can be told from other ends, so that what was found of them holds for them."""
        return bool(self.source.info.id and self.target.info.id)

    def identity_of(self, pair: Pair) -> str:
        """The same for as long as finished ranges stay valid."""
        return identity_of(pair, self.source.info.id, self.target.info.id)


def _common_algorithm(source: Extensions, target: Extensions) -> Algorithm | None:
    serve = all(extensions.services >= _PUSHED_DOWN for extensions in (source, target))
    return (
        Algorithm(source.checksum_dialect)
        if serve and _share(source.checksum_dialect, target.checksum_dialect)
        else None
    )


_PUSHED_DOWN = frozenset({"ChecksumService", "SchemaService"})


def _share(dialect: str, other: str) -> bool:
    return bool(dialect) and dialect == other
