"""Numbers of any precision: PostgreSQL's binary numeric, BSON's Decimal128, and text for what that cannot hold.

A binary numeric is a count of base-10000 digits, the power of the first, a sign, the number of decimal digits shown
after the point (`dscale`), then the digits (numeric_send in src/backend/utils/adt/numeric.c, the same in 14 to 18).
`dscale` is part of the value as people see it (1.0 is not printed as 1.00), so it becomes the exponent of the
Decimal128 and comes back from it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from dsync_postgres.documents.bson import (
    DECIMAL,
    DOUBLE,
    INT32,
    INT64,
    STRING,
    Decode,
    Misfit,
    read_double,
    read_int32,
    read_int64,
    string_element,
    string_text,
)

_HEAD = struct.Struct(">hhHH")
_unpack_head = _HEAD.unpack_from
_unpack_2 = struct.Struct(">hhHH2H").unpack
_unpack_3 = struct.Struct(">hhHH3H").unpack
_DIGITS = tuple(struct.Struct(f">{n}H") for n in range(12))
_FIELD_HEAD = struct.Struct(">ihhHH")
_pack_3 = struct.Struct(">ihhHH3H").pack
_DECIMAL = struct.Struct("<QQ")
_pack_decimal = _DECIMAL.pack
_DECIMAL_TAG = bytes([DECIMAL])

_NEGATIVE, _NAN, _PLUS_INFINITY, _MINUS_INFINITY = 0x4000, 0xC000, 0xD000, 0xF000
_SPECIAL_TO_BSON = {
    _NAN: _DECIMAL.pack(0, 0x7C << 56),
    _PLUS_INFINITY: _DECIMAL.pack(0, 0x78 << 56),
    _MINUS_INFINITY: _DECIMAL.pack(0, 0xF8 << 56),
}
_SPECIAL_FROM_TEXT = {"nan": _NAN, "infinity": _PLUS_INFINITY, "-infinity": _MINUS_INFINITY}

_COEFFICIENT_END = 10**34
_EXPONENT_BIAS = 6176
_EXPONENT_MAX = 6111
_LOW = (1 << 64) - 1
_HIGH = (1 << 49) - 1
# 34 decimal digits never span more base-10000 digits than this, wherever the point stands.
_GROUPS_MAX = 10
_POWERS = tuple(10**n for n in range(41))
_HIGHS = tuple((_EXPONENT_BIAS - scale) << 49 for scale in range(64))
"""The upper half of a Decimal128 by its scale, where the lower half holds all digits."""

_DSCALE_MAX = 16383
_INTEGER_DIGITS_MAX = 131072
_NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d*))?(?:[eE]([+-]?\d{1,6}))?", re.ASCII)


def encode_numeric(name: bytes, raw: bytes) -> bytes:
    """The BSON element of a binary numeric: a Decimal128, or a string where 34 digits do not hold it."""
    # The commonest lengths are unrolled: a loop over the digits takes twice the time.
    size = len(raw)
    if size == 14:
        count, weight, sign, dscale, first, second, third = _unpack_3(raw)
        coefficient = (first * 10000 + second) * 10000 + third
        # Most prices: not negative, no more than 18 digits, each of them shown.
        if sign == 0 and dscale < 64 and 0 <= (shift := dscale + 4 * weight - 8) <= 6:
            return _DECIMAL_TAG + name + _pack_decimal(coefficient * _POWERS[shift], _HIGHS[dscale])
    elif size == 12:
        count, weight, sign, dscale, first, second = _unpack_2(raw)
        coefficient = first * 10000 + second
    else:
        count, weight, sign, dscale = _unpack_head(raw)
        coefficient = 0
        if count <= _GROUPS_MAX:
            for group in _DIGITS[count].unpack_from(raw, 8):
                coefficient = coefficient * 10000 + group
    if sign > _NEGATIVE:
        return _DECIMAL_TAG + name + _SPECIAL_TO_BSON[sign]
    if count <= _GROUPS_MAX:
        shift = dscale - 4 * (count - 1 - weight)
        if 0 <= shift <= 40:
            coefficient *= _POWERS[shift]
        elif -40 <= shift < 0:
            # The last base-10000 digit may reach further than dscale; what lies beyond is zeros.
            coefficient //= _POWERS[-shift]
        elif coefficient:
            coefficient = _COEFFICIENT_END
        if coefficient < _COEFFICIENT_END and dscale <= _EXPONENT_BIAS:
            high = (_EXPONENT_BIAS - dscale) << 49 | coefficient >> 64
            if sign:
                high |= 1 << 63
            return _DECIMAL_TAG + name + _DECIMAL.pack(coefficient & _LOW, high)
    return _encode_wide(name, raw)


def _encode_wide(name: bytes, raw: bytes) -> bytes:
    """For what has more than 34 digits: perhaps a round number, else the text as PostgreSQL prints it."""
    count, weight, sign, dscale = _HEAD.unpack_from(raw)
    groups = struct.unpack_from(f">{count}H", raw, 8)
    digits = "".join([f"{group:04d}" for group in groups])
    point = (weight + 1) * 4
    whole = digits[:point].ljust(point, "0") if point > 0 else ""
    fraction = "0" * -point + digits if point < 0 else digits[point:]
    whole = whole.lstrip("0") or "0"
    fraction = fraction[:dscale].ljust(dscale, "0")
    significant = whole.rstrip("0")
    exponent = len(whole) - len(significant)
    if not dscale and len(significant) <= 34 and exponent <= _EXPONENT_MAX:
        coefficient = int(significant)
        high = (_EXPONENT_BIAS + exponent) << 49 | coefficient >> 64 | (1 << 63 if sign else 0)
        return _DECIMAL_TAG + name + _DECIMAL.pack(coefficient & _LOW, high)
    text = ("-" if sign else "") + whole + ("." + fraction if dscale else "")
    return string_element(name, text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """Precision and scale of a column; the server would round what goes beyond them, so it is refused."""

    precision: int
    scale: int
    end: int
    """10 ** precision: the first coefficient that does not fit."""


def numeric_decoder(precision_and_scale: tuple[int, int] | None) -> Decode:
    """A function from a BSON number to a binary numeric of that precision and scale."""
    limits: _Limits | None = None
    if precision_and_scale is not None:
        precision, scale = precision_and_scale
        limits = _Limits(precision=precision, scale=scale, end=10**precision)

    # What a number of the column's own scale looks like whose digits fit 64 bits and that is not negative, and what
    # three digits of base 10000 make of it: most prices, which the general way takes twice the time for.
    usual_high, usual_end, padding, usual_weight, usual_scale = -1, 0, 1, 0, 0
    if limits is not None and 0 <= limits.scale <= 40:
        usual_scale = limits.scale
        usual_high = (_EXPONENT_BIAS - usual_scale) << 49
        padding = _POWERS[-usual_scale % 4]
        usual_weight = 2 - -(-usual_scale // 4)
        usual_end = min(limits.end, -(-(10**12) // padding))

    def decode(kind: int, value: bytes) -> bytes:
        if kind == DECIMAL:
            low, high = _DECIMAL.unpack(value)
            if high == usual_high and low < usual_end:
                first, rest = divmod(low * padding, 100_000_000)
                second, third = divmod(rest, 10000)
                if first and third:
                    return _pack_3(14, 3, usual_weight, 0, usual_scale, first, second, third)
            combination = high >> 58 & 0x1F
            if combination < 24:
                coefficient = (high & _HIGH) << 64 | low
                if coefficient < _COEFFICIENT_END:
                    exponent = (high >> 49 & 0x3FFF) - _EXPONENT_BIAS
                    return _field(high >> 63, coefficient, exponent, limits)
            return _special_field(combination, high >> 63, limits)
        if kind in (INT32, INT64):
            number = read_int32(value) if kind == INT32 else read_int64(value)
            return _field(number < 0, abs(number), 0, limits)
        if kind == DOUBLE:
            return _from_text(repr(read_double(value)).replace("inf", "infinity"), limits)
        if kind == STRING:
            return _from_text(string_text(value), limits)
        raise Misfit.of(kind, "numeric")

    return decode


def _special_field(combination: int, negative: int, limits: _Limits | None) -> bytes:
    if combination == 0x1F:
        return _bare_field(_NAN)
    if combination != 0x1E:
        raise Misfit("a Decimal128 that is not in canonical form")
    return _infinity_field(_MINUS_INFINITY if negative else _PLUS_INFINITY, limits)


def _infinity_field(sign: int, limits: _Limits | None) -> bytes:
    if limits is not None:
        raise Misfit("infinity does not fit a numeric with precision")
    return _bare_field(sign)


def _bare_field(sign: int) -> bytes:
    return b"\0\0\0\x08" + _HEAD.pack(0, 0, sign, 0)


def _from_text(text: str, limits: _Limits | None) -> bytes:
    sign = _SPECIAL_FROM_TEXT.get(text.lower())
    if sign is not None:
        return _bare_field(sign) if sign == _NAN else _infinity_field(sign, limits)
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise Misfit("a string that is not a number")
    fraction = match[3] or ""
    digits = (match[2] + fraction).lstrip("0")
    exponent = int(match[4] or 0) - len(fraction)
    negative = match[1] == "-"
    if len(digits) <= 40:
        return _field(negative, int(digits or "0"), exponent, limits)
    return _wide_field(negative, digits, exponent, limits)


def _field(negative: bool | int, coefficient: int, exponent: int, limits: _Limits | None) -> bytes:
    """The binary numeric of `coefficient * 10 ** exponent`, with its length before it."""
    if (
        exponent > 0
        or exponent < -40
        or (limits is not None and (exponent != -limits.scale or coefficient >= limits.end))
    ):
        return _wide_field(negative, str(coefficient) if coefficient else "", exponent, limits)
    # Base-10000 digits are counted from the point, so the fraction is filled up to a multiple of four digits.
    padding = exponent % 4
    rest = coefficient * _POWERS[padding]
    weight = (exponent - padding) // 4 - 1
    if 10**8 <= rest < 10**12:
        # Three digits of base 10000 are what most prices have: without loop and list they take half the time.
        first, rest = divmod(rest, 10**8)
        second, third = divmod(rest, 10000)
        if third:
            return _pack_3(14, 3, weight + 3, _NEGATIVE if negative else 0, -exponent, first, second, third)
        rest += first * 10**8
    groups: list[int] = []
    while rest:
        rest, group = divmod(rest, 10000)
        weight += 1
        # Trailing zeros are not stored.
        if group or groups:
            groups.append(group)
    return _pack(negative, groups, weight, -exponent)


def _wide_field(negative: bool | int, digits: str, exponent: int, limits: _Limits | None) -> bytes:
    """As `_field`, for any number of digits; `digits` has no leading zeros."""
    dscale = max(0, -exponent)
    if limits is not None:
        digits, exponent, dscale = _limited(digits, exponent, limits)
    if dscale > _DSCALE_MAX or len(digits) + exponent > _INTEGER_DIGITS_MAX:
        raise Misfit("a number with more digits than numeric has")
    if not digits:
        return _pack(negative, [], 0, dscale)
    padding = exponent % 4
    digits += "0" * padding
    digits = digits.rjust(-(-len(digits) // 4) * 4, "0")
    groups = [int(digits[at : at + 4]) for at in range(len(digits) - 4, -1, -4)]
    weight = (exponent - padding) // 4 + len(groups) - 1
    first = next(at for at, group in enumerate(groups) if group)
    return _pack(negative, groups[first:], weight, dscale)


def _limited(digits: str, exponent: int, limits: _Limits) -> tuple[str, int, int]:
    """Digits, exponent and dscale under a column's precision and scale, or a misfit: the server would round."""
    precision, scale = limits.precision, limits.scale
    if not digits:
        return digits, exponent, max(0, scale)
    if exponent < -scale:
        beyond = -scale - exponent
        if digits[-beyond:].strip("0"):
            raise Misfit(f"a number with a digit beyond the scale of numeric({precision},{scale})")
        digits, exponent = digits[:-beyond], -scale
    if len(digits) + exponent > precision - scale:
        raise Misfit(f"a number that is too large for numeric({precision},{scale})")
    return digits, exponent, max(0, scale)


def _pack(negative: bool | int, groups: list[int], weight: int, dscale: int) -> bytes:
    """A field from base-10000 digits in rising order."""
    count = len(groups)
    sign = _NEGATIVE if negative and count else 0
    if count < 12:
        head = _FIELD_HEAD.pack(8 + 2 * count, count, weight if count else 0, sign, dscale)
        return head + _DIGITS[count].pack(*reversed(groups))
    head = _FIELD_HEAD.pack(8 + 2 * count, count, weight, sign, dscale)
    return head + struct.pack(f">{count}H", *reversed(groups))


def whole_decimal_element(name: bytes, number: int) -> bytes:
    """A Decimal128 element of a whole number below 10 ** 34 that is not negative."""
    return _DECIMAL_TAG + name + _DECIMAL.pack(number & _LOW, _EXPONENT_BIAS << 49 | number >> 64)


_CENTS = struct.Struct(">q")
_CENTS_HIGH = (_EXPONENT_BIAS - 2) << 49
_MONEY_LIMIT = 1 << 63


def encode_money(name: bytes, raw: bytes) -> bytes:
    """A Decimal128 with two digits: money is a count of hundredths under `lc_monetary = C`, which sessions have."""
    (cents,) = _CENTS.unpack(raw)
    return _DECIMAL_TAG + name + _DECIMAL.pack(abs(cents), _CENTS_HIGH | (1 << 63 if cents < 0 else 0))


def decode_money(kind: int, value: bytes) -> bytes:
    """A money from a number that has no more than two digits."""
    cents = 0
    if kind == DECIMAL:
        low, high = _DECIMAL.unpack(value)
        coefficient = (high & _HIGH) << 64 | low
        exponent = (high >> 49 & 0x3FFF) - _EXPONENT_BIAS + 2
        if (high >> 58 & 0x1F) >= 24 or not -34 <= exponent <= 20 or coefficient >= _COEFFICIENT_END:
            raise Misfit("a number that money cannot hold")
        cents, rest = (coefficient * _POWERS[exponent], 0) if exponent >= 0 else divmod(coefficient, _POWERS[-exponent])
        if rest:
            raise Misfit("a number with more than two digits does not fit money")
        cents = -cents if high >> 63 else cents
    elif kind in (INT32, INT64):
        cents = 100 * (read_int32(value) if kind == INT32 else read_int64(value))
    else:
        raise Misfit.of(kind, "money")
    if not -_MONEY_LIMIT <= cents < _MONEY_LIMIT:
        raise Misfit("a number out of the range of money")
    return b"\0\0\0\x08" + _CENTS.pack(cents)


def integral_decimal(value: bytes, target: str) -> int:
    """The whole number that a Decimal128 is.

    Raises:
        Misfit: it is none, or has more than 40 digits.
    """
    low, high = _DECIMAL.unpack(value)
    coefficient = (high & _HIGH) << 64 | low
    exponent = (high >> 49 & 0x3FFF) - _EXPONENT_BIAS
    if (high >> 58 & 0x1F) < 24 and coefficient < _COEFFICIENT_END and -34 <= exponent <= 40:
        whole, rest = (coefficient * _POWERS[exponent], 0) if exponent >= 0 else divmod(coefficient, _POWERS[-exponent])
        if not rest:
            return int(-whole if high >> 63 else whole)
    raise Misfit(f"a Decimal128 that is not a whole number does not fit {target}")
