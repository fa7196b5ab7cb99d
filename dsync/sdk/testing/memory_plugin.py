"""The memory connector as a plug-in: `memory:///FILE?fill=shop.orders:1000&fault=write_page@2:hang`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

from dsync.protocol.interface import Connector
from dsync.sdk.plugin import ConnectorSpec, PluginContext

if TYPE_CHECKING:
    from dsync.sdk.options import Options


def _options() -> type[Options]:
    from pydantic import Field, SecretStr

    from dsync.sdk.options import Options

    class MemoryOptions(Options):
        """What can be set for the memory connector."""

        fill: Annotated[
            tuple[str, ...], Field(description="Namespaces to fill when empty, as NAMESPACE:ROWS, comma-separated.")
        ] = ()
        record_bytes: Annotated[int, Field(description="The size of the documents to fill with.", ge=30)] = 100
        partition_rows: Annotated[int, Field(description="Documents in a partition.", ge=1)] = 1000
        fault: Annotated[
            tuple[str, ...], Field(description="Faults on order, as METHOD@N:ACTION, comma-separated.")
        ] = ()
        password: Annotated[SecretStr | None, Field(description="Not needed; for tests of secrets.")] = None

    return MemoryOptions


def _create(uri: str, options: Options, context: PluginContext) -> Connector:
    from dsync.sdk.testing.faults import Faults
    from dsync.sdk.testing.memory import MemoryConnector
    from dsync.sdk.testing.memory_store import MemoryStore

    given = options.model_dump(exclude={"password"})
    connector = MemoryConnector(
        MemoryStore(unquote(urlsplit(uri).path)),
        faults=Faults(given["fault"]),
        partition_rows=given["partition_rows"],
    )
    for entry in given["fill"]:
        namespace, _, rows = entry.rpartition(":")
        if not connector.store.count(namespace):
            connector.serve(namespace, int(rows), record_bytes=given["record_bytes"])
    return connector


SPEC = ConnectorSpec(
    name="memory",
    schemes=("memory",),
    summary="documents in memory or in a file, for tests",
    options=_options,
    create=_create,
)
