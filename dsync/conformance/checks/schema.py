"""dsync.v1.SchemaService at a source: what namespaces there are, and what they are like."""

from __future__ import annotations

from dsync.conformance.check import check
from dsync.conformance.needs import SCHEMA_SERVICE, SOURCE
from dsync.conformance.outcomes import expect
from dsync.conformance.subject import Subject
from dsync.protocol.types import DescribeRequest, Role

_DESCRIBE = "dsync.v1 SchemaService.DescribeNamespaces"


@check("schema.asked", SOURCE, SCHEMA_SERVICE, stands_on=f"{_DESCRIBE}: namespaces")
async def describes_what_is_asked_for(subject: Subject) -> None:
    """The namespaces that are read are described, each once, with columns that have names and types.

    The sink makes its tables of this, and verification its comparisons.
    """
    await subject.open_session(Role.SOURCE)
    names = await subject.namespaces()
    described = await subject.connector.describe(DescribeRequest(namespaces=names))
    found = [item.namespace for item in described.namespaces if item.namespace in names]
    expect(
        sorted(found) == sorted(names),
        expected=f"descriptions of {', '.join(sorted(names))}",
        seen=f"of {', '.join(sorted(found)) or 'nothing'}",
    )
    for item in described.namespaces:
        nameless = [column for column in item.columns if not column.name or not column.type]
        expect(
            not nameless,
            expected=f"{item.namespace}: names and types of columns",
            seen=f"{len(nameless)} columns without",
        )
        twice = len(item.columns) - len({column.name for column in item.columns})
        expect(not twice, expected=f"{item.namespace}: every column once", seen=f"{twice} of them again")


@check("schema.all", SOURCE, SCHEMA_SERVICE, stands_on=f"{_DESCRIBE}: no namespace means all of them")
async def describes_everything(subject: Subject) -> None:
    """Asked without names, the source describes those that are read, too.

    Patterns (`-n 'shop.*'`) are matched with this list: what is missing in it is not copied, without a word.
    """
    await subject.open_session(Role.SOURCE)
    names = set(await subject.namespaces())
    described = await subject.connector.describe(DescribeRequest())
    missing = names - {item.namespace for item in described.namespaces}
    expect(
        not missing,
        expected=f"{', '.join(sorted(names))} among all namespaces",
        seen=f"not {', '.join(sorted(missing))}",
    )
