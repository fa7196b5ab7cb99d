"""Types that travel as strings: their binary forms, written and read as the server prints them.

Each has two functions, from the binary form to text and back. What the text says that the binary form could not, or
not without a change, is a ValueError, which becomes a misfit.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable

from dsync_postgres.documents.bson import STRING, Decode, Encode, Misfit, field, string_element, string_text
from dsync_postgres.documents.types import ColumnType, Kind

ToText = Callable[[bytes], bytes]
FromText = Callable[[str], bytes]

_U64 = struct.Struct(">Q")
_I32 = struct.Struct(">i")
_TID = struct.Struct(">IH")
_U16 = struct.Struct(">H")
_ERRORS = (ValueError, struct.error, OverflowError, OSError)


def text_encoder(to_text: ToText) -> Encode:
    """A function from a binary value to a string element."""

    def encode(name: bytes, raw: bytes) -> bytes:
        return string_element(name, to_text(raw))

    return encode


def text_decoder(from_text: FromText, target: str) -> Decode:
    """A function from a string to a binary value with its length before it."""

    def decode(kind: int, value: bytes) -> bytes:
        if kind != STRING:
            raise Misfit.of(kind, target)
        text = string_text(value)
        try:
            return field(from_text(text))
        except _ERRORS as exc:
            raise Misfit(f"a string that {target} cannot hold") from exc

    return decode


# ------------------------------------------------------------------ networks

# PGSQL_AF_INET and PGSQL_AF_INET6 in src/include/utils/inet.h: the same numbers on every system.
_INET4, _INET6 = 2, 3
_FAMILIES = {_INET4: (socket.AF_INET, 32), _INET6: (socket.AF_INET6, 128)}


def _inet_to_text(raw: bytes) -> bytes:
    """A host without its full mask, as inet prints it; cidr always has one."""
    family, bits, is_cidr = raw[0], raw[1], raw[2]
    system_family, full = _FAMILIES[family]
    text = socket.inet_ntop(system_family, raw[4:])
    return (text if bits == full and not is_cidr else f"{text}/{bits}").encode()


def _inet_from_text(text: str, *, is_cidr: bool) -> bytes:
    address, slash, mask = text.partition("/")
    family = _INET6 if ":" in address else _INET4
    system_family, full = _FAMILIES[family]
    packed = socket.inet_pton(system_family, address)
    if slash and not (mask.isascii() and mask.isdigit() and int(mask) <= full):
        raise ValueError
    bits = int(mask) if slash else full
    number = int.from_bytes(packed, "big")
    if is_cidr and number & ((1 << (full - bits)) - 1):
        raise ValueError
    return bytes((family, bits, is_cidr, len(packed))) + packed


def _hardware_to_text(raw: bytes) -> bytes:
    return raw.hex(":").encode()


def _hardware_from_text(size: int) -> FromText:
    pattern = re.compile(rf"[0-9a-fA-F]{{2}}(?::[0-9a-fA-F]{{2}}){{{size - 1}}}")

    def from_text(text: str) -> bytes:
        if pattern.fullmatch(text) is None:
            raise ValueError
        return bytes.fromhex(text.replace(":", ""))

    return from_text


# ---------------------------------------------------------------------- bits


def _bits_to_text(raw: bytes) -> bytes:
    (count,) = _I32.unpack_from(raw)
    data = raw[4:]
    return f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"[:count].encode() if count else b""


def _bits_from_text(column_type: ColumnType) -> FromText:
    limit = column_type.modifier[0] if column_type.modifier else None
    is_fixed = column_type.kind is Kind.BIT

    def from_text(text: str) -> bytes:
        count = len(text)
        if text.strip("01") or (limit is not None and (count != limit if is_fixed else count > limit)):
            raise ValueError
        size = -(-count // 8)
        data = int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big") if count else b""
        return _I32.pack(count) + data

    return from_text


# ---------------------------------------------------- places and transactions

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_PLACE = re.compile(r"\((\d{1,10}),(\d{1,5})\)", re.ASCII)
_SNAPSHOT = re.compile(r"(\d{1,20}):(\d{1,20}):((?:\d{1,20}(?:,\d{1,20})*)?)", re.ASCII)


def _lsn_to_text(raw: bytes) -> bytes:
    (position,) = _U64.unpack(raw)
    return b"%X/%X" % (position >> 32, position & 0xFFFFFFFF)


def _lsn_from_text(text: str) -> bytes:
    high, low = _matched(_LSN, text)
    return _U64.pack(int(high, 16) << 32 | int(low, 16))


def _tid_to_text(raw: bytes) -> bytes:
    return b"(%d,%d)" % _TID.unpack(raw)


def _tid_from_text(text: str) -> bytes:
    return _TID.pack(*map(int, _matched(_PLACE, text)))


def _snapshot_to_text(raw: bytes) -> bytes:
    (count,) = _I32.unpack_from(raw)
    xmin, xmax, *running = struct.unpack_from(f">{count + 2}Q", raw, 4)
    return b"%d:%d:%b" % (xmin, xmax, ",".join(map(str, running)).encode())


def _snapshot_from_text(text: str) -> bytes:
    xmin, xmax, listed = _matched(_SNAPSHOT, text)
    running = [int(xid) for xid in listed.split(",")] if listed else []
    return struct.pack(f">i{len(running) + 2}Q", len(running), int(xmin), int(xmax), *running)


def _matched(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError
    return match.groups()


# -------------------------------------------------------------- small and odd

_OCTAL = re.compile(r"\\([0-3][0-7]{2})")


def _byte_char_to_text(raw: bytes) -> bytes:
    """One byte: nothing for 0, and what is not ASCII as `\\ooo`, as servers from 16 on print it."""
    return b"" if raw == b"\0" else raw if raw[0] < 0x80 else b"\\%03o" % raw[0]


def _byte_char_from_text(text: str) -> bytes:
    octal = _OCTAL.fullmatch(text)
    if octal is not None:
        return bytes([int(octal[1], 8)])
    if len(text) > 1 or not text.isascii():
        raise ValueError
    return text.encode() or b"\0"


def _versioned_to_text(raw: bytes) -> bytes:
    return raw[1:]


def _versioned_from_text(text: str) -> bytes:
    """jsonpath, and the types of ltree: a version, which has always been 1, and the text."""
    return b"\x01" + text.encode()


# ------------------------------------------------------------------- tsvector

_WEIGHTS = ("", "C", "B", "A")
_LEXEME = re.compile(r"'((?:[^'\\]|''|\\\\)+)'(?::(\d{1,5}[ABC]?(?:,\d{1,5}[ABC]?)*))?(?: (?=')|$)", re.ASCII)


def _tsvector_to_text(raw: bytes) -> bytes:
    """Lexemes in quotes with their positions, as tsvectorout prints them (src/backend/utils/adt/tsvector.c)."""
    (count,) = _I32.unpack_from(raw)
    position = 4
    parts = []
    for _ in range(count):
        end = raw.index(0, position)
        lexeme = raw[position:end].replace(b"\\", b"\\\\").replace(b"'", b"''")
        (places,) = _U16.unpack_from(raw, end + 1)
        found = struct.unpack_from(f">{places}H", raw, end + 3)
        position = end + 3 + 2 * places
        shown = ",".join([f"{place & 0x3FFF}{_WEIGHTS[place >> 14]}" for place in found])
        parts.append(b"'%b'%b" % (lexeme, f":{shown}".encode() if shown else b""))
    return b" ".join(parts)


def _tsvector_from_text(text: str) -> bytes:
    lexemes: dict[str, bytes] = {}
    position = 0
    while position < len(text):
        match = _LEXEME.match(text, position)
        if match is None:
            raise ValueError
        position = match.end()
        lexeme = match[1].replace("''", "'").replace("\\\\", "\\")
        places = [_place_of(place) for place in match[2].split(",")] if match[2] else []
        if lexeme in lexemes:
            raise ValueError
        lexemes[lexeme] = struct.pack(f">H{len(places)}H", len(places), *places)
    return _I32.pack(len(lexemes)) + b"".join(word.encode() + b"\0" + places for word, places in lexemes.items())


def _place_of(text: str) -> int:
    weight = _WEIGHTS.index(text[-1]) if text[-1].isalpha() else 0
    place = int(text.rstrip("ABC"))
    if place >= 1 << 14:
        raise ValueError
    return weight << 14 | place


# ---------------------------------------------------------------- the tables

TO_TEXT: dict[Kind, ToText] = {
    Kind.INET: _inet_to_text,
    Kind.CIDR: _inet_to_text,
    Kind.MACADDR: _hardware_to_text,
    Kind.MACADDR8: _hardware_to_text,
    Kind.BIT: _bits_to_text,
    Kind.VARBIT: _bits_to_text,
    Kind.PG_LSN: _lsn_to_text,
    Kind.TID: _tid_to_text,
    Kind.PG_SNAPSHOT: _snapshot_to_text,
    Kind.TXID_SNAPSHOT: _snapshot_to_text,
    Kind.BYTE_CHAR: _byte_char_to_text,
    Kind.JSONPATH: _versioned_to_text,
    Kind.LTREE: _versioned_to_text,
    Kind.TSVECTOR: _tsvector_to_text,
}
"""From the binary form to text, for the types of this module."""


def from_text(column_type: ColumnType) -> FromText:
    """From text to the binary form; the modifier's demands included."""
    match column_type.kind:
        case Kind.INET:
            return lambda text: _inet_from_text(text, is_cidr=False)
        case Kind.CIDR:
            return lambda text: _inet_from_text(text, is_cidr=True)
        case Kind.MACADDR:
            return _hardware_from_text(6)
        case Kind.MACADDR8:
            return _hardware_from_text(8)
        case Kind.BIT | Kind.VARBIT:
            return _bits_from_text(column_type)
        case Kind.PG_LSN:
            return _lsn_from_text
        case Kind.TID:
            return _tid_from_text
        case Kind.PG_SNAPSHOT | Kind.TXID_SNAPSHOT:
            return _snapshot_from_text
        case Kind.BYTE_CHAR:
            return _byte_char_from_text
        case Kind.JSONPATH | Kind.LTREE:
            return _versioned_from_text
        case Kind.TSVECTOR:
            return _tsvector_from_text
        case _:
            raise AssertionError(f"{column_type.kind} is not of this module")
