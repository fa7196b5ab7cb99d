"""The decoder gives every message as it was sent, and an error for everything else."""

import pytest
from dsync_postgres.stream.decoder import Decoder, MalformedMessageError
from dsync_postgres.stream.messages import (
    DELETE,
    INSERT,
    UPDATE,
    Begin,
    Change,
    Commit,
    LogicalMessage,
    Origin,
    RelationNews,
    Row,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    TypeName,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.stream import encoding as e

_OID = 16400
_COLUMNS = [e.Column(name="id", type_oid=23, is_identity=True), e.Column(name="note"), e.Column(name="größe")]


def _decoder(columns: list[e.Column] | None = None, *, identity: str = "d") -> Decoder:
    decoder = Decoder()
    decoder.decode(e.relation(_OID, columns or _COLUMNS, identity=identity))
    return decoder


def _change(decoder: Decoder, data: bytes, *, in_stream: bool = False) -> Change:
    message = decoder.decode(data, in_stream=in_stream)
    assert isinstance(message, Change)
    return message


_lsn = st.integers(0, 2**64 - 1)
_time = st.integers(-(2**63), 2**63 - 1)
_xid = st.integers(0, 2**32 - 1)
_name = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_value = st.one_of(st.none(), st.binary(max_size=300))
_row = st.tuples(st.binary(max_size=20), _value, _value)


# --------------------------------------------------------------- what is sent


@given(commit_lsn=_lsn, end_lsn=_lsn, time_us=_time, xid=_xid, name=_name)
def test_transactions_are_read_as_they_were_sent(
    commit_lsn: int, end_lsn: int, time_us: int, xid: int, name: str
) -> None:
    """Begin, Origin and Commit carry positions, times and ids through."""
    decoder = Decoder()
    begin = decoder.decode(e.begin(commit_lsn=commit_lsn, time_us=time_us, xid=xid))
    commit = decoder.decode(e.commit(commit_lsn=commit_lsn, end_lsn=end_lsn, time_us=time_us))
    origin = decoder.decode(e.origin(lsn=commit_lsn, name=name))

    assert begin == Begin(commit_lsn=commit_lsn, commit_time_us=time_us, xid=xid)
    assert commit == Commit(commit_lsn=commit_lsn, end_lsn=end_lsn, commit_time_us=time_us)
    assert origin == Origin(commit_lsn=commit_lsn, name=name)


@given(xid=_xid, subxid=_xid, commit_lsn=_lsn, end_lsn=_lsn, time_us=_time, is_first=st.booleans())
def test_parts_of_large_transactions_are_read_as_they_were_sent(
    xid: int, subxid: int, commit_lsn: int, end_lsn: int, time_us: int, is_first: bool
) -> None:
    """Stream Start, Stop, Commit and Abort; an abort with and without its position (protocol version 4)."""
    decoder = Decoder()

    assert decoder.decode(e.stream_start(xid, is_first=is_first)) == StreamStart(xid=xid, is_first=is_first)
    assert decoder.decode(e.STREAM_STOP, in_stream=True) == StreamStop()
    assert decoder.decode(
        e.stream_commit(xid, commit_lsn=commit_lsn, end_lsn=end_lsn, time_us=time_us)
    ) == StreamCommit(xid=xid, commit_lsn=commit_lsn, end_lsn=end_lsn, commit_time_us=time_us)
    assert decoder.decode(e.stream_abort(xid, subxid)) == StreamAbort(xid=xid, subxid=subxid)
    assert decoder.decode(e.stream_abort(xid, subxid, (commit_lsn, time_us))) == StreamAbort(
        xid=xid, subxid=subxid, abort_lsn=commit_lsn, abort_time_us=time_us
    )


@given(
    names=st.lists(_name, max_size=8),
    schema=_name.filter(bool),
    name=_name,
    xid=st.one_of(st.none(), _xid),
    modifier=st.integers(-1, 2**31 - 1),
)
def test_tables_and_types_are_described_as_they_were_sent(
    names: list[str], schema: str, name: str, xid: int | None, modifier: int
) -> None:
    """Names of any characters, inside a streamed transaction and outside."""
    decoder = Decoder()
    in_stream = xid is not None
    columns = [e.Column(name=column, type_oid=23, modifier=modifier, is_identity=column > "m") for column in names]

    news = decoder.decode(e.relation(_OID, columns, schema=schema, name=name, xid=xid), in_stream=in_stream)
    named = decoder.decode(e.type_name(99, schema, name, xid=xid), in_stream=in_stream)

    assert isinstance(news, RelationNews)
    assert (news.relation.schema, news.relation.name, news.xid) == (schema, name, xid or 0)
    assert [(c.name, c.modifier, c.is_identity) for c in news.relation.columns] == [
        (c.name, modifier, c.is_identity) for c in columns
    ]
    assert news.relation.key == tuple(index for index, column in enumerate(columns) if column.is_identity)
    assert named == TypeName(oid=99, schema=schema, name=name, xid=xid or 0)


@given(prefix=_name, content=st.binary(max_size=100), lsn=_lsn, xid=_xid, transactional=st.booleans())
def test_logical_messages_are_read_as_they_were_written(
    prefix: str, content: bytes, lsn: int, xid: int, transactional: bool
) -> None:
    """Prefix and content of pg_logical_emit_message."""
    flags = int(transactional)
    plain = Decoder().decode(e.message(prefix, content, flags=flags, lsn=lsn))
    streamed = Decoder().decode(e.message(prefix, content, flags=flags, lsn=lsn, xid=xid), in_stream=True)

    expected = LogicalMessage(is_transactional=transactional, lsn=lsn, prefix=prefix, content=content)
    assert plain == expected
    assert isinstance(streamed, LogicalMessage)
    assert (streamed.prefix, streamed.content, streamed.xid) == (prefix, content, xid)


@given(new=_row, old=_row, xid=st.one_of(st.none(), _xid), mark=st.sampled_from([b"t", b"b"]))
def test_changes_keep_the_bytes_of_their_rows(
    new: tuple[bytes, ...], old: tuple[bytes, ...], xid: int | None, mark: bytes
) -> None:
    """Values are the server's own bytes, and the key's are found among them."""
    decoder, in_stream = _decoder(), xid is not None
    new_row, old_row = e.row(new, mark=mark), e.row(old, mark=mark)

    inserted = _change(decoder, e.insert(_OID, new_row, xid=xid), in_stream=in_stream)
    updated = _change(decoder, e.update(_OID, new_row, xid=xid), in_stream=in_stream)
    moved = _change(decoder, e.update(_OID, new_row, old_key=old_row, xid=xid), in_stream=in_stream)
    replaced = _change(decoder, e.update(_OID, new_row, old=old_row, xid=xid), in_stream=in_stream)
    deleted = _change(decoder, e.delete(_OID, old_key=old_row, xid=xid), in_stream=in_stream)
    deleted_full = _change(decoder, e.delete(_OID, old=old_row, xid=xid), in_stream=in_stream)

    alone, before = Row(1, 1 + len(new_row), (new[0],), False), Row(1, 1 + len(old_row), (old[0],), False)
    after = Row(before.end + 1, before.end + 1 + len(new_row), (new[0],), False)
    relation, number = decoder.relations[_OID], xid or 0
    both = b"%c" + old_row + b"N" + new_row
    assert inserted == Change(INSERT, relation, number, b"N" + new_row, None, alone, False)
    assert updated == Change(UPDATE, relation, number, b"N" + new_row, None, alone, False)
    assert moved == Change(UPDATE, relation, number, both.replace(b"%c", b"K", 1), before, after, False)
    assert replaced == Change(UPDATE, relation, number, both.replace(b"%c", b"O", 1), before, after, True)
    assert deleted == Change(DELETE, relation, number, b"K" + old_row, before, None, False)
    assert deleted_full == Change(DELETE, relation, number, b"O" + old_row, before, None, True)


@given(oids=st.lists(st.integers(1, 5), max_size=6), options=st.integers(0, 3))
def test_a_truncate_names_its_tables(oids: list[int], options: int) -> None:
    """Several tables in one statement, and what was said with it."""
    decoder = Decoder()
    for oid in range(1, 6):
        decoder.decode(e.relation(oid, _COLUMNS, name=f"t{oid}"))

    message = decoder.decode(e.truncate(oids, options=options))

    assert isinstance(message, Truncate)
    assert [relation.oid for relation in message.relations] == oids
    assert (message.is_cascade, message.restarts_identity) == (bool(options & 1), bool(options & 2))


# ------------------------------------------------------------------- the keys


def test_a_key_has_its_own_order() -> None:
    """The key's columns come in key order, wherever they are in the table."""
    decoder = Decoder(key_of=lambda relation: (2, 0))
    decoder.decode(e.relation(_OID, _COLUMNS))

    change = _change(decoder, e.insert(_OID, e.row([b"1", b"x", b"9"])))

    assert change.new is not None
    assert change.new.key == (b"9", b"1")


def test_an_unchanged_value_is_marked_and_not_taken_for_null() -> None:
    """`u` says that the value was not sent; the row says so."""
    change = _change(_decoder(), e.update(_OID, e.row([b"1", e.UNCHANGED, None])))

    assert change.new is not None
    assert change.new.has_unchanged
    assert change.record[change.new.start : change.new.end] == e.row([b"1", e.UNCHANGED, None])


def test_an_unchanged_key_is_that_of_the_row_before() -> None:
    """A key so long that it is stored outside the row is not sent again; the row before has it."""
    decoder = Decoder(key_of=lambda relation: (0, 1))
    decoder.decode(e.relation(_OID, _COLUMNS))
    data = e.update(_OID, e.row([b"2", e.UNCHANGED, None]), old_key=e.row([b"1", b"long", None]))

    change = _change(decoder, data)

    assert change.new is not None
    assert change.old is not None
    assert (change.old.key, change.new.key) == ((b"1", b"long"), (b"2", b"long"))


def test_a_key_that_was_not_sent_at_all_is_an_error() -> None:
    """Without the row before nobody knows which row it is."""
    with pytest.raises(MalformedMessageError, match="a key was not sent"):
        _decoder().decode(e.update(_OID, e.row([e.UNCHANGED, b"x", None])))


def test_a_table_described_again_changes_what_rows_are_read_by() -> None:
    """After ALTER TABLE the server describes the table anew, and rows have the new columns."""
    decoder = _decoder()
    decoder.decode(e.insert(_OID, e.row([b"1", b"x", b"y"])))
    decoder.decode(e.relation(_OID, [*_COLUMNS, e.Column(name="added")]))

    assert _change(decoder, e.insert(_OID, e.row([b"1", b"x", b"y", b"z"]))).relation.columns[3].name == "added"
    with pytest.raises(MalformedMessageError, match="columns of its table"):
        decoder.decode(e.insert(_OID, e.row([b"1", b"x", b"y"])))


# -------------------------------------------------------- what is not a message

_SAMPLES = [
    (e.begin(commit_lsn=1), False),
    (e.commit(commit_lsn=1, end_lsn=2), False),
    (e.origin(lsn=1, name="elsewhere"), False),
    (e.relation(_OID, _COLUMNS), False),
    (e.relation(_OID, _COLUMNS, xid=7), True),
    (e.type_name(9, "public", "mood"), False),
    (e.insert(_OID, e.row([b"1", None, b"text"])), False),
    (e.insert(_OID, e.row([b"1", None, b"text"]), xid=7), True),
    (e.update(_OID, e.row([b"1", e.UNCHANGED, b"x"]), old_key=e.row([b"2", None, None])), False),
    (e.update(_OID, e.row([b"1", b"a", b"x"]), old=e.row([b"2", b"b", None])), False),
    (e.delete(_OID, old_key=e.row([b"2", None, None])), False),
    (e.truncate([_OID]), False),
    (e.message("dsync", b"mark"), False),
    (e.stream_start(7), False),
    (e.STREAM_STOP, True),
    (e.stream_commit(7, commit_lsn=1, end_lsn=2), False),
    (e.stream_abort(7, 8), False),
    (e.stream_abort(7, 8, (1, 2)), False),
]


@pytest.mark.parametrize(("data", "in_stream"), _SAMPLES)
def test_a_message_that_is_cut_or_too_long_is_an_error(data: bytes, in_stream: bool) -> None:
    """At every byte, and with one byte more; never a shorter row."""
    # An abort has two lengths: without its position it is the older form, and complete.
    others = {sample for sample, _ in _SAMPLES} - {data}
    for cut in {*(data[:length] for length in range(len(data))), data + b"\0"} - others:
        with pytest.raises(MalformedMessageError):
            _decoder().decode(cut, in_stream=in_stream)


@given(data=st.binary(max_size=60), in_stream=st.booleans())
def test_random_bytes_are_an_error_or_a_message(data: bytes, in_stream: bool) -> None:
    """Nothing else ever comes out, whatever comes in."""
    decoder = _decoder()
    try:
        decoder.decode(data, in_stream=in_stream)
    except MalformedMessageError:
        return


@given(
    sample=st.sampled_from([s for s in _SAMPLES if s[0][:1] in b"IUD"]),
    place=st.integers(0, 200),
    value=st.integers(0, 255),
)
def test_a_damaged_row_is_an_error_or_says_exactly_what_its_bytes_say(
    sample: tuple[bytes, bool], place: int, value: int
) -> None:
    """One byte changed: either it cannot be read, or what was read is all of the message, byte for byte."""
    data, in_stream = bytearray(sample[0]), sample[1]
    data[place % len(data)] = value
    try:
        message = _decoder().decode(bytes(data), in_stream=in_stream)
    except MalformedMessageError:
        return
    assert isinstance(message, Change | RelationNews | TypeName | Truncate | LogicalMessage | Origin)
    if isinstance(message, Change):
        rows = [row.end - row.start for row in (message.old, message.new) if row is not None]
        assert sum(rows) + len(rows) == len(message.record)
        assert message.record == bytes(data[-len(message.record) :])


@pytest.mark.parametrize("kind", [b"b", b"P", b"K", b"r", b"p", b"Z"])
def test_messages_that_were_not_asked_for_are_errors(kind: bytes) -> None:
    """Two-phase commit is left alone: its messages never come, and are not guessed at."""
    with pytest.raises(MalformedMessageError, match="has not asked for"):
        Decoder().decode(kind + bytes(20))


def test_a_table_that_was_not_described_is_an_error() -> None:
    """Rows of it could not be read."""
    with pytest.raises(MalformedMessageError, match="has not described"):
        Decoder().decode(e.insert(_OID, e.row([b"1"])))
    with pytest.raises(MalformedMessageError, match="has not described"):
        Decoder().decode(e.truncate([_OID]))


def test_errors_never_say_what_is_in_a_row() -> None:
    """Record contents stay out of messages, which are logged."""
    with pytest.raises(MalformedMessageError) as caught:
        _decoder().decode(e.insert(_OID, e.row([b"s3cret", b"s3cret"])))
    assert "s3cret" not in str(caught.value)
