"""The values that travel between a coordinator and its plug-ins.

They mirror `proto/adiom/v1` and `proto/dsync/v1` field for field; the conversions stand beside them in
`dsync.protocol.convert`. Everything is immutable, so a value can be shared between tasks and kept in a plan.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

Buffer = bytes | bytearray | memoryview


class PageType(enum.IntEnum):
    """What the body of a page is; numbers below 100 are those of adiom.v1.DataType."""

    UNKNOWN = 0
    BSON = 1
    JSON = 2
    PG_COPY_BINARY = 101
    PG_COPY_TEXT = 102


class ChangeType(enum.IntEnum):
    """What the records of a change frame are: an adiom.v1.Update with that kind of document, or a tuple message."""

    UNKNOWN = 0
    BSON = 1
    JSON = 2
    PG_OUTPUT = 101


class Operation(enum.IntEnum):
    """What a change does."""

    UNKNOWN = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3
    PARTIAL_UPDATE = 4
    MOVE = 5
    """An update that changes the key while some values are not sent: it concerns two keys."""
    TRUNCATE = 6
    RESHAPE = 7
    """From here on its relation is the namespace's shape."""
    MARK = 8
    """No change: the record is what a mark in the source's log says."""


class UpdateType(enum.IntEnum):
    UNKNOWN = 0
    INSERT = 1
    UPDATE = 2
    DELETE = 3
    PARTIAL_UPDATE = 4


class Role(enum.IntEnum):
    UNKNOWN = 0
    SOURCE = 1
    SINK = 2


class Severity(enum.IntEnum):
    UNKNOWN = 0
    INFO = 1
    WARNING = 2
    STOP = 3


class Verdict(enum.IntEnum):
    UNKNOWN = 0
    UNCHANGED = 1
    CHANGED = 2
    OVERLAPS = 3
    """It is followed: what was copied stays, and what is read from now on may be newer than changes that come."""


class OnExisting(enum.IntEnum):
    UNKNOWN = 0
    ERROR = 1
    RESUME = 2
    APPEND = 3
    TRUNCATE = 4
    DROP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCapabilities:
    data_types: tuple[PageType, ...] = (PageType.BSON,)
    lsn_stream: bool = False
    multi_namespace_plan: bool = False
    default_plan: bool = False
    get_by_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkCapabilities:
    data_types: tuple[PageType, ...] = (PageType.BSON,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Who a plug-in is; at least one of `source` and `sink` is set."""

    id: str
    """Says whether this is the same endpoint as before; empty: it cannot tell."""
    db_type: str
    version: str = ""
    spec: str = ""
    source: SourceCapabilities | None = None
    sink: SinkCapabilities | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """What of dsync.v1 a plug-in serves."""

    read_types: tuple[PageType, ...] = ()
    write_types: tuple[PageType, ...] = ()
    services: frozenset[str] = frozenset()
    """Short names: "PageService", "LedgerService", "PlanService", "SchemaService", "ChecksumService", …"""
    max_message_bytes: int = 0
    page_refs: bool = False
    transactional: bool = False
    checksum_dialect: str = ""
    schema_dialect: str = ""
    row_filters: bool = False
    """As a source it reads the rows that a condition names and no others."""
    insert_only: bool = False
    """`WriteRequest.insert_only` is heeded."""
    stream_types: tuple[ChangeType, ...] = ()
    """What `stream_changes` gives, cheapest first."""
    change_types: tuple[ChangeType, ...] = ()
    """What `write_changes` takes, cheapest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something a person should know before data moves, and what to do about it."""

    code: str
    """Stable and kebab-case, for scripts: "row-security", "no-pg-dump"."""
    severity: Severity
    object: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """What a plug-in is told once, before any call that moves data."""

    flow: str = ""
    run: str = ""
    role: Role = Role.UNKNOWN
    page_bytes: int = 2 * 1024 * 1024
    max_message_bytes: int = 4 * 1024 * 1024
    page_directory: str = ""
    """Where pages by reference are written; empty: by value only."""
    page_probe: str = ""
    """A file in `page_directory` whose content proves a common file system."""
    memory_bytes: int = 0
    parallel: int = 2
    end_orphans: bool = False
    """End what an earlier life of this flow still runs at the server."""
    row_filters: Mapping[str, str] = field(default_factory=dict)
    """Conditions by namespace, in the source's own language: pages, counts and checksums are of what meets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    role: Role
    namespaces: tuple[str, ...] = ()
    peer_db_type: str = ""
    peer_version: str = ""
    updates: bool = False
    """Changes will be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A slice of a namespace that can be read alone; sent back to the source exactly as planned."""

    namespace: str
    header: str = ""
    value: str = ""
    cursor: bytes = b""
    estimated_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesPartition:
    namespaces: tuple[str, ...] = ()
    header: str = ""
    value: str = ""
    cursor: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    namespaces: tuple[str, ...]
    initial_sync: bool = True
    updates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    partitions: tuple[Partition, ...]
    updates_partitions: tuple[UpdatesPartition, ...] = ()
    snapshot: bytes = b""
    """Names the snapshot all pages are read from (PlanService); empty: there is none."""
    overlaps: bool = False
    """The changes were followed before: what is read may be newer than those that come first."""
    position: int = 0
    """The source's own, from which changes are followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedPlan:
    """Namespaces that join a stream while it is followed."""

    stream: UpdatesPartition
    """What is followed from now on."""
    partitions: tuple[Partition, ...] = ()
    snapshot: bytes = b""
    """Names the snapshot all pages are read from; empty: the stream has to be opened anew, as `stream` says, first."""
    seen_through: int = 0
    """The pages have every transaction up to this one: their changes in those are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedPartition:
    partition: Partition
    cursor: bytes = b""
    rows: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceVerdict:
    namespace: str
    verdict: Verdict
    reason: str = ""
    partitions: tuple[Partition, ...] = ()
    """For a changed namespace: how to read it again."""
    seen_through: int = 0
    """What is read again has every transaction up to this one: its changes in those are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedPlan:
    snapshot: bytes
    """Equal to the one asked about: it is still held and nothing has to change."""
    verdicts: tuple[NamespaceVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRef:
    """A page's body in a file of the session's page directory."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Records of one namespace, in one of three bodies.

    `records`: one bytes object a record (adiom.v1). `packed`: the records concatenated (BSON documents and COPY
    rows delimit themselves). `ref`: packed, in a file. Exactly one is not None.
    """

    type: PageType
    rows: int
    next_cursor: bytes = b""
    """Empty: the partition is done."""
    records: Sequence[bytes] | None = None
    packed: Buffer | None = None
    ref: PageRef | None = None

    def __post_init__(self) -> None:
        if sum(body is not None for body in (self.records, self.packed, self.ref)) != 1:
            raise ValueError("a page has exactly one body")

    @property
    def size_bytes(self) -> int:
        if self.ref is not None:
            return self.ref.size_bytes
        if self.packed is not None:
            return len(self.packed)
        return sum(map(len, self.records or ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Ask for one page; asking twice with one cursor gives the same page."""

    partition: Partition
    type: PageType = PageType.BSON
    cursor: bytes = b""
    """Empty: from the start of the partition."""
    columns: tuple[str, ...] = ()
    by_reference: bool = False
    page_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteContext:
    """Which step of which flow a write belongs to."""

    flow: str
    run: str
    unit: str
    fence: int
    cursor: bytes
    """Where the unit goes on after this write."""
    seq: int
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    namespace: str
    page: Page
    columns: tuple[str, ...] = ()
    context: WriteContext | None = None
    upsert: bool = True
    """Rows may be there already: write by key. False promises that none of them is."""
    insert_only: bool = False
    """The namespace is in use: triggers fire, foreign keys are checked, and a record whose key is there is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BsonValue:
    """One BSON value outside a document; equal means equal type and equal bytes."""

    data: bytes
    type: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    id: tuple[BsonValue, ...]
    type: UpdateType
    data: bytes = b""
    partial_update_unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteUpdatesRequest:
    namespace: str
    updates: tuple[Update, ...]
    type: PageType = PageType.BSON
    context: WriteContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    namespaces: tuple[str, ...] = ()
    type: PageType = PageType.BSON
    cursor: bytes = b""
    header: str = ""
    """With `value` as in the UpdatesPartition that is streamed: sent as metadata, for load balancers."""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateBatch:
    updates: tuple[Update, ...]
    namespace: str
    next_cursor: bytes
    time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LsnPosition:
    lsn: int
    next_cursor: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRef:
    unit: str
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitState:
    """Where a unit stands at the sink; a new unit has an empty cursor, seq 0 and no rows."""

    unit: str
    fence: int
    cursor: bytes = b""
    seq: int = 0
    rows: int = 0
    size_bytes: int = 0
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowManifest:
    """A flow as the sink remembers it, so that lost state can be rebuilt."""

    flow: str
    fingerprint: str
    name: str
    run: str
    plan: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    name: str
    type: str
    not_null: bool = False
    generated: bool = False
    key_position: int = 0
    page_types: tuple[PageType, ...] = ()
    orders_everywhere: bool = False
    shape: str = ""
    """What the type is made of (a composite's fields in their order, a domain's base), where its name does not say it:
    values of equal types mean the same at both ends only where this is equal too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceDescription:
    namespace: str
    columns: tuple[Column, ...] = ()
    estimated_rows: int = 0
    size_bytes: int = 0
    rowless: bool = False
    """Copied, but not by rows of its own: a partitioned parent, a view."""
    kind: str = "table"
    parent: str = ""
    """The namespace whose partition this is: choosing that one chooses this too."""
    placed_by_server: bool = False
    """Which partition a row belongs to may differ from server to server: only the tree as a whole can be compared."""

    @property
    def key(self) -> tuple[str, ...]:
        """The key's columns in key order; empty where there is none."""
        keyed = sorted((c.key_position, c.name) for c in self.columns if c.key_position)
        return tuple(name for _, name in keyed)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeRequest:
    namespaces: tuple[str, ...] = ()
    definition_for: str = ""
    peer_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaDescription:
    namespaces: tuple[NamespaceDescription, ...]
    dialect: str = ""
    definition: bytes = b""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceMapping:
    source: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareRequest:
    flow: str
    run: str
    mappings: tuple[NamespaceMapping, ...]
    description: SchemaDescription
    whole_database: bool = False
    create: bool = True
    on_existing: OnExisting = OnExisting.ERROR
    no_owner: bool = False
    no_privileges: bool = False
    allow_lossy: bool = False
    dry_run: bool = False
    page_types: tuple[PageType, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedNamespace:
    source: str
    target: str
    page_type: PageType
    columns: tuple[str, ...] = ()
    upsert: bool = False
    existed: bool = False
    reason: str = ""
    anew: bool = False
    """Nothing that an earlier run of the flow has loaded is there any more: the table is made in this run, or was made
    again or emptied since. None of its rows may be carried over, and none has to be cleared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishStep:
    """Something to do once all rows are there; `payload` is the sink's own and comes back to it as it is."""

    id: str
    kind: str
    name: str
    namespace: str = ""
    depends_on: tuple[str, ...] = ()
    payload: bytes = field(default=b"", repr=False)
    needs_source: bool = False
    makes_key: bool = False
    """Rows are told apart by what it makes: done before rows are written by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    namespaces: tuple[PreparedNamespace, ...]
    steps: tuple[FinishStep, ...] = ()
    ddl: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRange:
    """Rows whose key, compared as a row, lies in [lower, upper); an empty bound is open."""

    lower: tuple[str, ...] = ()
    upper: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksumRequest:
    namespace: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()
    range: KeyRange = KeyRange()
    buckets: int = 1
    only_buckets: tuple[int, ...] = ()
    algorithm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    bucket: int
    count: int
    sum: int
    """The sum of 128-bit row hashes, modulo 2**128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowHash:
    key: tuple[str, ...]
    hash: bytes
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRequest:
    namespace: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    changed_since: bytes = b""
    """Only rows written since this snapshot of a plan, or of which that cannot be told; empty: all."""


TextRow = tuple[str | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformInfo:
    request_type: PageType
    response_types: tuple[PageType, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformCapabilities:
    transforms: tuple[TransformInfo, ...]
    use_multiple_responses: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformRequest:
    namespace: str
    request_type: PageType
    response_type: PageType
    updates: tuple[Update, ...] = ()
    data: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformOutput:
    namespace: str
    """Empty: as mapped by the coordinator."""
    updates: tuple[Update, ...] = ()
    data: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformResponse:
    outputs: tuple[TransformOutput, ...]
    """One where `use_multiple_responses` is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeColumn:
    name: str
    type: str = ""
    key_position: int = 0
    """Place in the key that identifies the old row; from 1, 0 for no part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRelation:
    """A namespace in one shape; a changed table is another relation."""

    namespace: str
    columns: tuple[ChangeColumn, ...] = ()
    full_old_row: bool = False
    """The old row comes whole with updates and deletes."""
    details: bytes = field(default=b"", repr=False)
    """What a sink needs besides to make a column that it lacks, in the source's own form; empty: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCommit:
    """The end of a transaction within a frame."""

    end: int
    """How many of the frame's changes come before it."""
    transaction: int
    """Its place in the source's history, on the scale of its positions: grows from commit to commit, over restarts."""
    time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFrame:
    """A stretch of a source's history in its order, as columns: one item a change in each, little-endian."""

    type: ChangeType
    cursor: bytes
    """Where the stream goes on after this frame; only the source understands it."""
    transaction: int
    """That of the last change; of a frame that ends between two transactions, the last one before that."""
    index: int = 0
    """How many changes of that transaction have been sent by the end of this frame, reshapes and marks not counted."""
    first_index: int = 0
    """How many changes of the frame's first transaction were in earlier frames."""
    relations: tuple[ChangeRelation, ...] = ()
    operations: bytes = b""
    """1 byte each: an `Operation`."""
    relation_of: bytes = b""
    """2 bytes each: an index into `relations`."""
    key_hashes: bytes = b""
    """8 bytes each: equal for equal keys of a namespace."""
    sizes: bytes = b""
    """4 bytes each: the size of the record."""
    moved_from: bytes = b""
    """8 bytes for each MOVE: the hash of its old key; empty where the source does not tell."""
    body: Buffer = b""
    """The records, one after the other."""
    commits: tuple[ChangeCommit, ...] = ()
    time: datetime | None = None
    """The source's clock when this was sent."""
    position: int = 0
    """The source's own position by then, for the lag."""

    def __post_init__(self) -> None:
        count = len(self.operations)
        if (len(self.relation_of), len(self.key_hashes), len(self.sizes)) != (2 * count, 8 * count, 4 * count):
            raise ValueError("a frame's columns have not the same number of changes")
        if self.moved_from and len(self.moved_from) != 8 * self.operations.count(Operation.MOVE):
            raise ValueError("a frame has not as many old keys as moves")

    def __len__(self) -> int:
        """The number of changes."""
        return len(self.operations)

    @property
    def place(self) -> tuple[int, int]:
        """Where it ends: the transaction, and how many of its changes have been sent. Equal whenever it is read."""
        return self.transaction, self.index


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamChangesRequest:
    namespaces: tuple[str, ...] = ()
    type: ChangeType = ChangeType.BSON
    cursor: bytes = b""
    """Empty: from the position that the plan has fixed."""
    durable: bytes | None = None
    """Everything up to here is durable; what lies between it and the cursor was read, and may be lost. None: the
    cursor."""
    frame_bytes: int = 0
    header: str = ""
    """With `value` as in the UpdatesPartition that is streamed: sent as metadata, for load balancers."""
    value: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeStatus:
    """What a source keeps for a stream."""

    position: int
    """Where the source's history ends now."""
    acknowledged: int
    """Everything before was acknowledged."""
    retained_bytes: int
    safe_bytes: int | None = None
    """How much more may be written before the source gives the stream up; None: there is no limit."""
    active: bool = False
    """Somebody reads the stream."""
    name: str = ""
    """What it is kept under, for a person."""
    gone: tuple[str, ...] = ()
    """Namespaces of the stream that the source does not have any more: dropped, or under another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteChangesRequest:
    context: WriteContext
    """The unit is a lane."""
    frame: ChangeFrame
    targets: tuple[str, ...]
    """For each relation of the frame its namespace at the sink."""
    overlap: bool = False
    """Rows may be newer than the changes, or gone; False: the sink equals the source as it was before the first one."""
    in_order: bool = False
    """One change after the other instead of sets, all in one transaction."""
    also: tuple[WriteContext, ...] = ()
    """Ledger rows of other lanes, moved in the same transaction: the changes are theirs too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IncompleteChange:
    """A change that needs values which were not sent and which the sink does not have either."""

    index: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenChanges:
    changes: int
    """How many were written: all of them, or none."""
    incomplete: tuple[IncompleteChange, ...] = ()
    """None was written: these have to be completed first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedSession:
    """Somebody who is connected to a server, or a transaction that nobody is connected to."""

    id: str
    """What the server calls it."""
    user: str = ""
    application: str = ""
    state: str = ""
    """In the server's words."""
    open_s: float | None = None
    """How long its transaction has been open; None: it is in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A source that nobody writes to any more who does not insist; or, of a dry run, what that would take."""

    token: bytes
    """What `thaw` needs to take it back."""
    undo: str
    """The same for a person, in the source's own language."""
    ended: tuple[ConnectedSession, ...] = ()
    """Sessions from before, which would have gone on writing."""
    left: tuple[ConnectedSession, ...] = ()
    """Those that this role may not end, and transactions that may commit without a session."""
    exempt: tuple[str, ...] = ()
    """What may write all the same, a sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaObject:
    """An object, or a property of one, that two schemas can differ in."""

    kind: str
    """`table`, `column`, `default`, `index`, … What ends in `query` only servers of one version write alike."""
    name: str
    namespace: str = ""
    """What it belongs to; empty: it stands for itself."""
    definition: str = ""
    """Equal for equal objects, whatever their namespace is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceState:
    """Where a sequence stands."""

    name: str
    namespace: str = ""
    """With `column` what it is for; empty: nothing."""
    column: str = ""
    last_value: int
    is_called: bool
    """False: the next value is `last_value` itself."""
