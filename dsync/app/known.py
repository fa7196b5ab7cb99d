"""A flow that the state knows, and how its ends are reached again; for secrets, which it does not keep, it asks."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.protocol.errors import RequestError
from dsync.sdk.redaction import HIDDEN
from dsync.state import FlowNotFoundError, FlowRow, RunRow, StateMissingError, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFlow:
    """A flow with its latest run."""

    flow: FlowRow
    spec: FlowSpec
    run: RunRow | None
    """None: it has been made and has never run."""
    state: str = ""
    """What `--state` is given; empty: the default one."""

    @property
    def title(self) -> str:
        """For messages: the name, or the id."""
        return self.flow.name or self.flow.flow

    def source(self, given: str = "") -> str:
        """What reaches the source: what was given, else the stored reference where that is enough."""
        return given or _reachable(self, self.spec.source, "--source")

    def sink(self, given: str = "") -> str:
        return given or _reachable(self, self.spec.sink, "--sink")

    @property
    def command(self) -> str:
        """The command line that goes on with it; a password stands as ***."""
        has_tables = self.run is not None and (bool(self.run.extra.get("planned")) or self.run.number > 1)
        return sync_command(self.spec, self.flow.name or "", self.state, has_tables=has_tables)


def _reachable(known: KnownFlow, end: EndpointIdentity, option: str) -> str:
    if HIDDEN in end.reference or not end.reference:
        shown = end.reference or "an endpoint that only its connector knows"
        raise RequestError(
            f"flow {known.title}: the state keeps no passwords, and {shown} had one: give {option} URI (or an endpoint"
            " without one: env:NAME, file:PATH, PGPASSWORD, ~/.pgpass)"
        )
    return end.reference


def find_known_flow(store: Store, reference: str) -> KnownFlow:
    """The flow with this name, id or beginning of an id. Raises FlowNotFoundError."""
    return known_flow(store, store.get_flow(reference))


def known_flow(store: Store, flow: FlowRow) -> KnownFlow:
    return KnownFlow(
        flow=flow, spec=FlowSpec.model_validate(flow.spec), run=store.latest_run(flow.flow), state=store.named
    )


@contextlib.contextmanager
def existing_store(location: str, *, wanted: str = "") -> Iterator[Store | None]:
    """The state if there is any; None where no flow has ever been run with it.

    Raises:
        FlowNotFoundError: there is none, and the flow `wanted` was asked for.
    """
    try:
        store = Store.open(location or None, create=False)
    except StateMissingError as exc:
        if wanted:
            raise FlowNotFoundError(f"there is no flow {wanted}: {exc}") from exc
        yield None
        return
    with store:
        yield store


def letters_command(flow: str, state: str = "") -> str:
    """`dsync dead-letters list …` for a flow, by name or id."""
    return shlex.join(["dsync", "dead-letters", "list", flow, *(["--state", state] if state else [])])


def resume_command(flow: str, state: str = "") -> str:
    """`dsync resume …` for a flow, by name or id."""
    return shlex.join(["dsync", "resume", flow, *(["--state", state] if state else [])])


def sync_command(spec: FlowSpec, name: str, state: str = "", *, has_tables: bool = True) -> str:
    """`dsync sync …` with everything that finds this flow again, and what was chosen for its rows and schema.

    Without tuning, which belongs to a command and not to a flow; what becomes of existing tables is decided when the
    flow gets its own (`has_tables`), and not again.
    """
    words = ["dsync", "sync", spec.source.reference, spec.sink.reference, "--mode", spec.mode]
    for option, values in (
        ("-n", spec.namespaces),
        ("--exclude", spec.exclude),
        ("--filter", spec.filters),
        ("--dead-letters", spec.dead_letters),
    ):
        words += [word for value in values for word in (option, value)]
    if spec.schema_mode != "copy":
        words += ["--schema", spec.schema_mode]
    if spec.data_type != "auto":
        words += ["--data-type", spec.data_type]
    chosen = {
        "--no-owner": spec.no_owner,
        "--no-privileges": spec.no_privileges,
        "--allow-lossy": spec.allow_lossy,
    }
    words += [option for option, is_chosen in chosen.items() if is_chosen]
    if spec.on_existing and not has_tables:
        words += ["--on-existing", spec.on_existing]
    if state:
        words += ["--state", state]
    if name:
        words += ["--flow", name]
    return shlex.join(words)
