"""The flow back of a cut-over: from what was the sink to what was the source, made and tested before anybody switches.

Its slot is made after the end mark was applied. Unless something was written at the source after that mark, which is
looked for when the slot is there and makes the whole cut-over unsafe, nothing that the forward flow applied comes after
the slot; so nothing of it runs back. Its publication names the flow's tables alone, so dsync's own ledger never does.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from dsync.app.cutover_steps import Reversing
from dsync.app.heeding import RequestKind
from dsync.app.known import KnownFlow, existing_store, resume_command
from dsync.app.plan import plan
from dsync.app.requests import SyncRequest
from dsync.app.reset import ResetRequest, reset
from dsync.app.sync import sync
from dsync.coordinator.following import Following
from dsync.coordinator.plan import stop_at
from dsync.protocol.errors import PermanentError, RequestError
from dsync.sdk.references import is_reference
from dsync.state import Store

_OVERRULES = "overrule_read_only=true"


@dataclass(slots=True, kw_only=True)
class FlowBack(Reversing):
    """Of one flow."""

    request: SyncRequest
    state: str
    _flow: str = field(default="", init=False)

    @classmethod
    def of(
        cls, store: Store, known: KnownFlow, *, source: str, sink: str, allow_plaintext: bool, freezes: bool
    ) -> FlowBack:
        """The same tables the other way round.

        Raises:
            RequestError: the source could not be written to once it is read-only.
        """
        assert known.run is not None, "only a flow that follows is cut over"
        followed = Following.of_json(known.run.extra["following"]).partition.namespaces
        targets = {row.namespace: row.target for row in store.load_namespaces(known.flow.flow, known.run.run)}
        names = [(targets.get(name, name), name) for name in followed]
        if freezes and is_reference(source):
            raise RequestError(
                f"the flow back has to write to a source that --freeze leaves read-only, which its URI says "
                f"({_OVERRULES}), and {source} cannot be added to: give --source URI, or put that into it and leave "
                "--freeze out"
            )
        request = SyncRequest(
            source=sink,
            sink=source if is_reference(source) else _overruling(source),
            namespaces=tuple(there if there == here else f"{there}:{here}" for there, here in names),
            attach=known.spec.attach,
            allow_plaintext=allow_plaintext,
            mode="stream",
            until_caught_up=True,
            flow=f"{known.title}-back",
            state=state_of(store),
            parallel=known.spec.parallel,
            memory_limit=known.spec.memory_limit,
        )
        return cls(request=request, state=state_of(store))

    async def begin(self) -> None:
        """What stands against it is found before anything is changed; one of an attempt that failed is removed.

        Raises:
            RequestError: it runs.
            CheckFailedError: it could not be followed, or not written to.
        """
        with existing_store(self.state) as store:
            flow = store.find_flow_by_name(self.request.flow) if store is not None else None
            lease = store.get_lease(flow.flow) if store is not None and flow is not None else None
        if flow is not None:
            if lease is not None and lease.holder is not None and lease.remaining_s > 0:
                raise RequestError(
                    f"flow {self.request.flow} runs, from the sink to the source: end it before changes go the other "
                    "way again, or they would go round in a circle"
                )
            self._flow = flow.flow
            # What it would give back begins before what the forward flow has applied since.
            await self.unmake()
        stop_at((await plan(self.request)).findings)

    async def make(self, stopping: asyncio.Event) -> tuple[str, str]:
        """Publication, slot and flow; a mark passes through it to its end, and it is paused."""
        outcome = await sync(self.request, lambda event: None, stopping)
        self._flow = outcome.flow
        if outcome.result is None or not outcome.result.consistent:
            raise PermanentError(
                f"flow {self.request.flow} was made, and does not follow: `dsync status {self.request.flow}` says why"
            )
        pause(self.state, outcome.flow)
        return self.request.flow, resume_command(self.request.flow, self.state)

    async def unmake(self) -> None:
        """Remove it with its slot, which would keep the log and, used later, bring old changes back."""
        if self._flow:
            await reset(
                ResetRequest(
                    flow=self._flow,
                    source=self.request.source,
                    sink=self.request.sink,
                    state=self.state,
                    attach=self.request.attach,
                    allow_plaintext=self.request.allow_plaintext,
                )
            )
            self._flow = ""


def pause(state: str, flow: str) -> None:
    """The flow's next start begins paused, unless `dsync resume` is what starts it. Repeatable."""
    with existing_store(state, wanted=flow) as store:
        assert store is not None, "a flow that is wanted is looked for in a state that exists"
        if not any(row.kind == RequestKind.PAUSE for row in store.open_requests(flow)):
            store.add_request(flow, RequestKind.PAUSE.value)


def state_of(store: Store) -> str:
    """What `--state` was given."""
    return store.named


def _overruling(uri: str) -> str:
    parts = urlsplit(uri)
    if _OVERRULES in parts.query:
        return uri
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, _OVERRULES)))))
