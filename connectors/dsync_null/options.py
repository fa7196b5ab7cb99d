"""The options of the null sink."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field

from dsync.sdk.options import Options

DataType = Literal["pg_copy_binary", "pg_copy_text", "bson", "json"]


class NullOptions(Options):
    """How the sink is to behave."""

    data_types: Annotated[
        tuple[DataType, ...],
        Field(description="What it takes; the cheapest that the source has too is used.", min_length=1),
    ] = ("pg_copy_binary", "pg_copy_text", "bson", "json")
    ledger: Annotated[
        bool,
        Field(description="Keep a ledger, in memory: a page that is sent again is not counted again."),
    ] = False
    latency_ms: Annotated[float, Field(description="How long a page takes at the least.", ge=0)] = 0.0
    refuse_ids: Annotated[
        tuple[int, ...],
        Field(description="Documents with these whole numbers as `_id` are refused, as if they broke a constraint."),
    ] = ()
    fault: Annotated[
        tuple[str, ...],
        Field(
            description="Faults on order, as METHOD@N:ACTION, comma-separated: `write_page@3:ServerUnavailableError`; "
            "actions are names of errors, hang, exit and crash, `N+` is from there on."
        ),
    ] = ()


def sink_name(uri: str) -> str:
    """The NAME of `null://NAME`, which tells one sink from another; empty where there is none."""
    parts = urlsplit(uri)
    return unquote(parts.netloc + parts.path).strip("/")
