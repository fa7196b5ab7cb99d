"""The two ways of moving a page, each in terms of the other.

adiom.v1 moves single records (ListData, WriteData), dsync.v1 packed pages (ReadPage, WritePage). An author writes
one of them; these functions give the other, so that every connector can be asked either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dsync.protocol import pages
from dsync.protocol.errors import RequestError
from dsync.protocol.interface import Connector, services_of
from dsync.protocol.types import Extensions, Page, PageType, ReadRequest, WriteRequest


def overrides(connector: Connector, method: str) -> bool:
    """Whether the connector's class has a method of its own in place of the one that refuses."""
    return getattr(type(connector), method) is not getattr(Connector, method)


async def extensions_of(connector: Connector) -> Extensions:
    """What it declares, with the services that follow from its class where it names none."""
    extensions = await connector.get_extensions()
    return extensions if extensions.services else dataclasses.replace(extensions, services=services_of(connector))


async def list_records(connector: Connector, request: ReadRequest) -> tuple[Sequence[bytes], bytes]:
    """A page as single records with its next cursor, also from a connector that has only packed pages."""
    _require_known(request.type, "ListData", request.partition.namespace)
    if overrides(connector, "list_data") or not overrides(connector, "read_page"):
        page = await connector.list_data(request)
    else:
        page = await connector.read_page(dataclasses.replace(request, by_reference=False))
    return pages.records_of(page), page.next_cursor


async def write_records(connector: Connector, request: WriteRequest) -> None:
    """Write a page of single records, also to a connector that takes only packed pages."""
    _require_known(request.page.type, "WriteData", request.namespace)
    if overrides(connector, "write_data") or not overrides(connector, "write_page"):
        await connector.write_data(request)
    else:
        await connector.write_page(dataclasses.replace(request, page=pages.packed(request.page)))


async def read_page(connector: Connector, request: ReadRequest) -> Page:
    """A page in whatever form the connector gives it, also from one that has only ListData."""
    _require_known(request.type, "ReadPage", request.partition.namespace)
    if overrides(connector, "read_page"):
        return await connector.read_page(request)
    return await connector.list_data(dataclasses.replace(request, by_reference=False))


async def write_page(connector: Connector, request: WriteRequest) -> int:
    """Write a page in any form; returns its rows, also for a connector that has only WriteData."""
    _require_known(request.page.type, "WritePage", request.namespace)
    if overrides(connector, "write_page"):
        return await connector.write_page(dataclasses.replace(request, page=pages.packed(request.page)))
    records = pages.records_of(request.page)
    page = Page(type=request.page.type, rows=len(records), records=records, next_cursor=request.page.next_cursor)
    await connector.write_data(dataclasses.replace(request, page=page))
    return len(records)


def _require_known(page_type: PageType, method: str, namespace: str) -> None:
    if page_type is PageType.UNKNOWN:
        raise RequestError(f"{method} of {namespace}: the data type is missing or unknown; negotiate one by GetInfo")
