"""The options of the random source."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import unquote, urlsplit

from pydantic import Field, model_validator

from dsync.sdk.options import Options

FieldType = Literal[
    "int32",
    "int64",
    "double",
    "decimal",
    "bool",
    "date",
    "string",
    "uuid",
    "binary",
    "objectid",
    "array",
    "document",
    "null",
]
_ALL_TYPES: tuple[FieldType, ...] = get_args(FieldType)


class RandomOptions(Options):
    """What the documents, the changes and the source's behaviour are to be like."""

    namespaces: Annotated[int, Field(description="How many namespaces there are: NAME.c1, NAME.c2, …", ge=1)] = 1
    documents: Annotated[int, Field(description="How many documents a namespace has.", ge=0, le=1 << 62)] = 1000
    partitions: Annotated[int, Field(description="In how many partitions a namespace is planned.", ge=1)] = 2
    shape: Annotated[
        Literal["small", "kib", "typed"],
        Field(description="small: 41 bytes, `_id` and a string; kib: the same in 1 KiB; typed: a field of each type."),
    ] = "small"
    types: Annotated[
        tuple[FieldType, ...],
        Field(description="The fields of typed documents, each named after its type."),
    ] = _ALL_TYPES
    document_bytes: Annotated[
        int, Field(description="The size of a document, reached by a longer string; 0: as the shape has it.", ge=0)
    ] = 0
    seed: Annotated[int, Field(description="Other seeds give other documents and changes.", ge=0, lt=1 << 64)] = 0
    changes: Annotated[
        int, Field(description="How many changes a namespace's stream has; after them it stays open and silent.", ge=0)
    ] = 0
    change_mix: Annotated[
        tuple[int, int, int],
        Field(description="The shares of inserts, updates and deletes among the changes."),
    ] = (1, 2, 1)
    changes_per_s: Annotated[
        float, Field(description="How quickly changes come; 0: as quickly as they are taken.", ge=0)
    ] = 0.0
    latency_ms: Annotated[float, Field(description="How long a page takes at the least.", ge=0)] = 0.0
    fault: Annotated[
        tuple[str, ...],
        Field(
            description="Faults on order, as METHOD@N:ACTION, comma-separated: `read_page@3:ServerUnavailableError`; "
            "actions are names of errors, hang, exit, crash, same-cursor and over-limit, `N+` is from there on."
        ),
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> RandomOptions:
        if min(self.change_mix) < 0 or not sum(self.change_mix):
            raise ValueError("change_mix needs three shares, none below zero and not all zero")
        if len(set(self.types)) != len(self.types):
            raise ValueError("types names a field twice")
        return self


def source_name(uri: str) -> str:
    """The NAME of `random://NAME`, the first part of every namespace; "random" where there is none."""
    parts = urlsplit(uri)
    return unquote(parts.netloc + parts.path).strip("/") or "random"
