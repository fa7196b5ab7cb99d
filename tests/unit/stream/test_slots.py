"""What of slots needs no server."""

import pytest
from dsync_postgres.stream.connection import StreamSettings, history_end, start_command
from dsync_postgres.stream.lsn import format_lsn, parse_lsn
from dsync_postgres.stream.slots import full_xid, require_name, slot_name
from hypothesis import given
from hypothesis import strategies as st

from dsync.sdk import errors

_EPOCH = 1 << 32


@given(near=st.integers(_EPOCH, 1 << 62), distance=st.integers(1 - (1 << 31), (1 << 31) - 1))
def test_a_transactions_whole_id_is_the_one_nearest_to_now(near: int, distance: int) -> None:
    """Locks show the lower 32 bits; around a wrap the upper half is one more or one less."""
    assert full_xid((near + distance) % _EPOCH, near) == near + distance


@given(st.integers(0, 2**64 - 1))
def test_positions_are_printed_as_the_server_does(position: int) -> None:
    """Two halves in hexadecimal."""
    assert parse_lsn(format_lsn(position)) == position


def test_a_flows_name_becomes_a_slots_name() -> None:
    """Lower case, digits and underscores, 63 at the most; anything else a user gives is refused."""
    assert slot_name("Shop-1/ä") == "dsync_shop_1__"
    assert len(slot_name("x" * 99)) == 63
    assert require_name(slot_name("Shop-1/ä")) == "dsync_shop_1__"
    for name in ("", "Upper", "with space", 'quo"te', "a" * 64, "line\n"):
        with pytest.raises(errors.OptionError):
            require_name(name)


@pytest.mark.parametrize(("major", "version"), [(14, 2), (15, 3), (16, 4), (18, 4)])
def test_the_protocols_version_is_the_servers(major: int, version: int) -> None:
    """The newest that both know; names of publications are quoted twice, as identifiers and as a string."""
    settings = StreamSettings(slot="s", publications=("a", "B\"'b"), start_lsn=0x1_0000_00AB)
    command = start_command(settings, major).decode()
    assert command.startswith("START_REPLICATION SLOT s LOGICAL 1/AB (")
    assert f"proto_version '{version}'" in command
    assert """publication_names '"a","B""''b"'""" in command
    assert "two_phase" not in command
    assert "binary" not in command


def test_a_timelines_end_is_found_in_the_history() -> None:
    """A promoted standby knows where it left its primary's history; a strange server does not have it."""
    history = "1\t0/3000148\tno recovery target specified\n\n2\t1/500\tbefore 2000-01-01\n"
    assert history_end(history, 1) == 0x3000148
    assert history_end(history, 2) == 0x1_0000_0500
    assert history_end(history, 3) is None
