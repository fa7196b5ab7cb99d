"""What checks need: a role, a capability that was declared, a place to write to."""

from __future__ import annotations

from dsync.conformance.check import Need
from dsync.conformance.subject import Subject


async def _no_source(subject: Subject) -> str:
    return "" if subject.info.source else "it declares no source"


async def _no_lookup(subject: Subject) -> str:
    source = subject.info.source
    return "" if source and source.get_by_ids else "it does not declare get_by_ids"


async def _lookup(subject: Subject) -> str:
    source = subject.info.source
    return "it declares get_by_ids" if source and source.get_by_ids else ""


async def _no_default_plan(subject: Subject) -> str:
    source = subject.info.source
    return "" if source and source.default_plan else "it does not declare default_plan"


async def _not_several(subject: Subject) -> str:
    source = subject.info.source
    if not source or not source.multi_namespace_plan:
        return "it does not declare multi_namespace_plan"
    return "" if len(await subject.namespaces()) > 1 else "only one namespace is known: name two"


async def _no_lsn(subject: Subject) -> str:
    source = subject.info.source
    return "" if source and source.lsn_stream else "it does not declare lsn_stream"


async def _lsn(subject: Subject) -> str:
    source = subject.info.source
    return "it declares lsn_stream" if source and source.lsn_stream else ""


async def _no_stream(subject: Subject) -> str:
    return await subject.changes.why_not()


async def _no_changes_made(subject: Subject) -> str:
    return "" if subject.changes.can_make else "changes cannot be made: give a scratch namespace of a source and sink"


async def _no_scratch(subject: Subject) -> str:
    if not subject.info.sink:
        return "it declares no sink"
    return "" if subject.options.scratch else "nothing may be written: name a scratch namespace"


async def _no_reader(subject: Subject) -> str:
    return (
        "" if subject.scratch.reader else "what is written cannot be read back: it is no source, and no reader is given"
    )


SOURCE = Need(words="a source", missing=_no_source)
LOOKUP = Need(words="`get_by_ids` declared", missing=_no_lookup)
NO_LOOKUP = Need(words="`get_by_ids` not declared", missing=_lookup)
DEFAULT_PLAN = Need(words="`default_plan` declared", missing=_no_default_plan)
SEVERAL = Need(words="`multi_namespace_plan` declared, two namespaces", missing=_not_several)
LSN = Need(words="`lsn_stream` declared", missing=_no_lsn)
NO_LSN = Need(words="`lsn_stream` not declared", missing=_lsn)
STREAM = Need(words="updates partitions planned", missing=_no_stream)
MAKES_CHANGES = Need(words="changes can be made", missing=_no_changes_made)
SCRATCH = Need(words="a sink and a scratch namespace", missing=_no_scratch)
READ_BACK = Need(words="a reader of what is written", missing=_no_reader)


def service(name: str) -> Need:
    """One of dsync.v1's services is served."""

    async def missing(subject: Subject) -> str:
        return "" if subject.serves(name) else f"it does not serve dsync.v1.{name}"

    return Need(words=f"`dsync.v1.{name}`", missing=missing)


PAGE_SERVICE = service("PageService")
LEDGER_SERVICE = service("LedgerService")
PLAN_SERVICE = service("PlanService")
SCHEMA_SERVICE = service("SchemaService")
CHANGE_SERVICE = service("ChangeService")
CHECKSUM_SERVICE = service("ChecksumService")
