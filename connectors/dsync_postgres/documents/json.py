"""jsonb as BSON values and back; json stays the text that it is.

jsonb keeps numbers exactly and nothing of the spelling, so objects become documents, arrays arrays, and a number the
first of int32, int64, double and Decimal128 that prints the very same digits. Where BSON has no place for a value
(a number of more than 34 digits, deep nesting, the null that is not SQL's NULL) the whole value travels as
`{"$json": "<its text>"}`. json keeps spacing, order and repeated keys, so its text travels as a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from json.scanner import make_scanner

import bson
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion, TypeDecoder, TypeRegistry
from bson.decimal128 import Decimal128

from dsync_postgres.documents.bson import DOCUMENT, STRING, Decode, Misfit, document_value, string_bytes, string_element

ESCAPE = "$json"
"""The only field of a document that carries a jsonb as text."""

JSONB_VERSION = b"\x01"
"""The first byte of a binary jsonb (jsonb_send in src/backend/utils/adt/jsonb.c)."""

# MongoDB refuses documents nested deeper than 100 levels; some of them belong to what is around the value.
_DEPTH_MAX = 80
_INT64_END = 1 << 63
_INT64_DIGITS = len(str(_INT64_END)) + 1
_DECIMAL_DIGITS = 34
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?", re.ASCII)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


class _Code:
    """Stands for a BSON code, which is a kind of string to Python and would become one in JSON without a word."""


class _CodeDecoder(TypeDecoder):
    bson_type = Code

    def transform_bson(self, value: object) -> object:
        return _Code()


_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, type_registry=TypeRegistry([_CodeDecoder()])
)


_PLAIN_OPTIONS: CodecOptions[dict[str, object]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)


class _NoBsonForm(Exception):
    """A JSON value that BSON cannot hold exactly."""


def encode_json(name: bytes, raw: bytes) -> bytes:
    """A string element with the text of a json value."""
    return string_element(name, raw)


def encode_jsonb(name: bytes, raw: bytes) -> bytes:
    """The BSON element of a binary jsonb."""
    # Each level takes two bytes at least.
    if len(raw) <= 2 * _DEPTH_MAX or raw.count(b"[") + raw.count(b"{") <= _DEPTH_MAX or _depth(raw) <= _DEPTH_MAX:
        text = raw[1:].decode()
        try:
            try:
                element = _element(name, _parse(text, 0)[0])
            except (ValueError, OverflowError):
                # An integer beyond 64 bits, or longer than int() reads.
                element = _element(name, _parse_wide(text, 0)[0])
        except _NoBsonForm:
            element = b""
        if element:
            return element
    return b"\x03" + name + document_value(string_element(b"$json\0", raw[1:]))


def _element(name: bytes, value: object) -> bytes:
    """The element of a jsonb; empty where it has no form of its own."""
    if type(value) is dict:
        return b"" if ESCAPE in value else b"\x03" + name + bson.encode(value)
    return b"" if value is None else _renamed(name, bson.encode({"": value}))


def _renamed(name: bytes, document: bytes) -> bytes:
    """The only element of a document, whose name is empty, under another name."""
    return document[4:5] + name + document[6:-1]


def _depth(raw: bytes) -> int:
    """How deep a value nests."""
    depth = deepest = 0
    for byte in _STRING.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _integer(literal: str) -> int | Decimal128:
    if len(literal) <= _INT64_DIGITS:
        number = int(literal)
        if -_INT64_END <= number < _INT64_END:
            return number
    return _decimal(literal)


def _fraction(literal: str) -> float | Decimal128:
    number = float(literal)
    return number if repr(number) == literal else _decimal(literal)


def _decimal(literal: str) -> Decimal128:
    match = _NUMBER.fullmatch(literal)
    if match is None or len((match[1] + (match[2] or "")).lstrip("0")) > _DECIMAL_DIGITS:
        raise _NoBsonForm
    if len(match[2] or "") > 6000:
        raise _NoBsonForm
    return Decimal128(literal)


# The server's text is well-formed and has no space around it, so the quickest of the methods will do.
def _parser(decoder: json.JSONDecoder) -> Callable[[str, int], tuple[object, int]]:
    # What a decoder calls itself, after a check for what stands before and behind.
    parse: Callable[[str, int], tuple[object, int]] = make_scanner(decoder)  # type: ignore[arg-type]  # typeshed errs
    return parse


_parse = _parser(json.JSONDecoder(parse_float=_fraction))
_parse_wide = _parser(json.JSONDecoder(parse_float=_fraction, parse_int=_integer))


def jsonb_decoder() -> Decode:
    """A function from any BSON value that JSON can hold to a binary jsonb."""
    to_text = _text_writer("jsonb")

    def decode(kind: int, value: bytes) -> bytes:
        text = to_text(kind, value)
        return (len(text) + 1).to_bytes(4, "big") + JSONB_VERSION + text

    return decode


def json_decoder() -> Decode:
    """A function from a string, which is taken as JSON text, or another BSON value to a json."""
    to_text = _text_writer("json")

    def decode(kind: int, value: bytes) -> bytes:
        text = string_bytes(value) if kind == STRING else to_text(kind, value)
        return len(text).to_bytes(4, "big") + text

    return decode


def _text_writer(target: str) -> Callable[[int, bytes], bytes]:
    def to_text(kind: int, value: bytes) -> bytes:
        found = _value_of(kind, value)
        if type(found) is dict and len(found) == 1 and isinstance(found.get(ESCAPE), str):
            return str(found[ESCAPE]).encode()
        try:
            return _dumps(found).encode()
        except _NotPlain:
            return "".join(_pieces(found, target)).encode()
        except (ValueError, RecursionError) as exc:
            # A NaN or an infinity, or nesting without end.
            raise Misfit(f"a value that {target} cannot hold") from exc

    return to_text


def _value_of(kind: int, value: bytes) -> object:
    # Only where a byte could say "code" is it looked for: that costs a third of the time.
    options = _OPTIONS if 0x0D in value or 0x0F in value or kind in (0x0D, 0x0F) else _PLAIN_OPTIONS
    try:
        if kind == DOCUMENT:
            return bson.decode(value, options)
        return bson.decode(document_value(bytes([kind]) + b"\0" + value), options)[""]
    except (bson.errors.BSONError, UnicodeDecodeError, RecursionError) as exc:
        raise Misfit("it is not valid BSON") from exc


class _NotPlain(Exception):
    """There is something inside that the quick writer does not know."""


def _not_plain(value: object) -> object:
    raise _NotPlain


def _writer() -> Callable[[object], str]:
    """What writes JSON: the encoder of the standard library, whose quick part is otherwise made anew for each value."""
    encode = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_not_plain, check_circular=False
    ).encode
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encode
    quick = make(None, _not_plain, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(quick(value, 0))


_dumps = _writer()


def _pieces(value: object, target: str) -> list[str]:
    """The JSON text of a value with Decimal128 numbers in it, in pieces."""
    if isinstance(value, Decimal128):
        return [_decimal_text(value.to_decimal(), target)]
    if isinstance(value, Mapping):
        pieces = ["{"]
        for name, member in value.items():
            pieces += [_dumps(name), ":", *_pieces(member, target), ","]
        return _closed(pieces, "}")
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        pieces = ["["]
        for member in value:
            pieces += [*_pieces(member, target), ","]
        return _closed(pieces, "]")
    try:
        return [_dumps(value)]
    except _NotPlain as exc:
        raise Misfit(f"a {type(value).__name__.strip('_')} inside does not fit {target}") from exc
    except ValueError as exc:
        raise Misfit(f"a value that {target} cannot hold") from exc


def _decimal_text(number: Decimal, target: str) -> str:
    if not number.is_finite():
        raise Misfit(f"a number that is not finite does not fit {target}")
    return str(number)


def _closed(pieces: list[str], bracket: str) -> list[str]:
    if pieces[-1] == ",":
        pieces.pop()
    return [*pieces, bracket]
