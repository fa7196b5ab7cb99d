"""Writes the loop that turns BSON documents into binary COPY rows, one for each table.

As in `documents_encode` there is a *quick* loop and a *careful* one. Both expect the fields in the order in which our
encoder writes them; a document that differs is taken apart field by field in `documents_foreign`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Set

from dsync_postgres.documents.bson import (
    ARRAY,
    BINARY,
    BOOL,
    DATE,
    DECIMAL,
    DOCUMENT,
    DOUBLE,
    INT32,
    INT64,
    NULL,
    OBJECT_ID,
    PG_NULL,
    STRING,
    Misfit,
)
from dsync_postgres.documents.code import Code
from dsync_postgres.documents.layout import Item, Layout
from dsync_postgres.documents.types import ColumnType, Kind
from dsync_postgres.documents.values import BlobForm, FixedForm, decoder, is_real

DecodeLoop = Callable[[bytes, int, int, bytearray, "MissedDocument"], tuple[int, int, int]]
"""(data, position, end, out, missed) → position, rows, documents missed."""
MissedDocument = Callable[[bytes, int, int, bytearray], int]
"""(data, position, rows before, out): decodes the one document at a position and says where the next begins."""

_DOCUMENT_ERRORS = (struct.error, IndexError, ValueError, OverflowError, Misfit)

# How wide a value of each BSON type is. Below zero: an int32 at its front says so, and leaves out so many bytes
# less one.
_NO_WIDTH = -100
_WIDTHS = [_NO_WIDTH] * 256
_WIDTHS[DOUBLE] = _WIDTHS[DATE] = _WIDTHS[INT64] = 8
_WIDTHS[INT32] = 4
_WIDTHS[BOOL] = 1
_WIDTHS[NULL] = 0
_WIDTHS[DECIMAL] = 16
_WIDTHS[STRING], _WIDTHS[DOCUMENT], _WIDTHS[ARRAY], _WIDTHS[BINARY] = -5, -1, -1, -6

# What our encoder mostly makes of a type, where that is not read in place.
_USUAL = {
    Kind.NUMERIC: DECIMAL,
    Kind.JSONB: DOCUMENT,
    Kind.ARRAY: ARRAY,
    Kind.COMPOSITE: DOCUMENT,
    Kind.RANGE: DOCUMENT,
}

_read_count = struct.Struct("<i").unpack_from
_pack_length = struct.Struct(">i").pack


def compile_decoder(layout: Layout, *, present: Set[int]) -> DecodeLoop:
    """The loop for a table's columns, quick for those of these indexes."""
    writer = _Writer(layout, present=present)
    loop: DecodeLoop = writer.compile()  # type: ignore[assignment]  # a function made by exec has no static type
    return loop


class _Writer:
    """Builds the source of one loop: first what reads a document into variables, then what writes the row."""

    def __init__(self, layout: Layout, *, present: Set[int]) -> None:
        self._layout = layout
        self._present = present
        self._code = Code(
            objects={
                "join": b"".join,
                "errors": _DOCUMENT_ERRORS,
                "is_real": is_real,
                "widths": tuple(_WIDTHS),
                "read_count": _read_count,
                "pack_length": _pack_length,
                "PG_NULL": PG_NULL,
            }
        )
        # What the next unpack reads, the constant at its end, what must hold, and the positions to remember.
        self._read_layout = ""
        self._read_names: list[str] = []
        self._pending = b""
        self._read_tests: list[str] = []
        self._marks: list[tuple[str, int]] = []
        self._pack_layout = ""
        self._pack_arguments: list[str] = []
        self._pieces: list[str] = []

    def compile(self) -> object:
        self._code.add(
            0,
            "def decode(data, p, last, out, missed):",
            "    rows = misses = 0",
            "    while p < last:",
            "        start = p",
            "        try:",
            "            while p < last:",
            "                start = p",
        )
        self._write_reads()
        self._write_row()
        self._code.add(
            0,
            "                rows += 1",
            "            else:",
            "                return p, rows, misses",
            "        except errors:",
            "            pass",
            "        p = missed(data, start, rows, out)",
            "        rows += 1",
            "        misses += 1",
            "    return p, rows, misses",
        )
        return self._code.compile("decode")

    def _is_fixed(self, item: Item) -> bool:
        return item.index in self._present and item.fixed is not None

    def _is_blob(self, item: Item) -> bool:
        return item.index in self._present and item.blob is not None

    # ---------------------------------------------------------------- reading

    def _write_reads(self) -> None:
        self._expect("i", "length")
        self._write_id()
        for item in self._layout.fields:
            self._write_field(item)
        self._constant(b"\0")
        self._flush_reads()
        self._test("p == start + length", *self._id_tests())

    def _write_id(self) -> None:
        """Pass over `_id`; that it says the same as the key's fields is looked at afterwards."""
        key = self._layout.key
        if not key:
            self._constant(bytes([OBJECT_ID]) + self._layout.id_name)
            self._expect("12x", "")
        elif len(key) == 1 and not key[0].is_field:
            self._write_value(key[0], self._layout.id_name, suffix="")
        elif len(key) == 1 and self._is_fixed(key[0]):
            self._write_value(key[0], self._layout.id_name, suffix="_id")
        elif len(key) == 1:
            self._mark("id_start")
            self._write_value(key[0], self._layout.id_name, suffix="_id")
            self._mark("id_end")
        else:
            self._mark("id_start")
            self._constant(bytes([DOCUMENT]) + self._layout.id_name)
            self._expect("i", "id_length", "id_length > 0")
            self._flush_reads()
            self._line("p += id_length - 4", "id_end = p")

    def _id_tests(self) -> list[str]:
        """`_id` must be what the key's fields say, byte for byte; otherwise the slow way decides."""
        key = self._layout.key
        if not key or (len(key) == 1 and not key[0].is_field):
            return []
        if len(key) == 1:
            name = len(key[0].name)
            k = key[0].index
            if self._is_fixed(key[0]):
                return [f"v{k}_id == v{k}"]
            return [
                f"data[id_start] == data[b{k}]",
                f"data[id_start + {1 + len(self._layout.id_name)}:id_end] == data[b{k} + {1 + name}:z{k}]",
            ]
        # The head is five bytes of type and name and four of length.
        inside = f"data[id_start + {1 + len(self._layout.id_name) + 4}:id_end - 1]"
        fields = self._layout.fields
        first = fields.index(key[0])
        if fields[first : first + len(key)] == key and all(item.is_named_alike for item in key):
            return [f"{inside} == data[b{key[0].index}:z{key[-1].index}]"]
        parts = []
        for item in key:
            k = item.index
            if item.is_named_alike:
                parts.append(f"data[b{k}:z{k}]")
            else:
                column = self._code.name(item.column_name)
                parts += [f"data[b{k}:b{k} + 1]", column, f"data[b{k} + {1 + len(item.name)}:z{k}]"]
        return [f"{inside} == join(({', '.join(parts)}))"]

    def _write_field(self, item: Item) -> None:
        key = self._layout.key
        is_compared = item in key and not (len(key) == 1 and self._is_fixed(item))
        if is_compared:
            self._mark(f"b{item.index}")
        self._write_value(item, item.name, suffix="")
        if is_compared:
            self._mark(f"z{item.index}")

    def _write_value(self, item: Item, name: bytes, *, suffix: str) -> None:
        """Read one element; `suffix` keeps the variables of `_id` apart from those of the field."""
        k = f"{item.index}{suffix}"
        if self._is_fixed(item) and item.fixed is not None:
            self._constant(bytes([item.fixed.bson_type]) + name + item.fixed.bson_prefix)
            test = "" if suffix else item.fixed.to_pg_if.format(v=f"v{k}")
            self._expect(item.fixed.bson_code, f"v{k}", test)
            return
        if self._is_blob(item):
            assert item.blob is not None, "so says _is_blob"
            self._constant(bytes([item.blob.bson_type]) + name)
            limit = item.type.characters_max
            least = len(item.blob.after)
            self._expect("i", f"l{k}", f"{least} <= l{k}" + (f" <= {limit + 1}" if limit is not None else ""))
            self._constant(item.blob.before)
            self._flush_reads()
            # The NUL that ends the string is read with what follows it.
            self._line(f"a{k} = p", f"p += l{k} - {least}")
            self._constant(item.blob.after)
            return
        self._flush_reads()
        if item.blob is not None and not suffix and self._has_usual(item.type):
            self._write_blob(item, name)
            return
        if item.fixed is not None and item.fixed.is_reversed and not suffix:
            self._write_reversed(item, name, item.fixed)
            return
        usual = _USUAL.get(item.type.kind)
        if usual is None or suffix:
            self._line(*self._any_value(item, name, k=k, is_read=not suffix))
            return
        width = _WIDTHS[usual]
        self._line(
            f"if data.startswith({self._code.name(bytes([usual]) + name)}, p):",
            f"    p += {len(name) + 1}",
            f"    w = read_count(data, p)[0] + {-width - 1}" if width < 0 else f"    w = {width}",
            "    if w < 0:",
            "        break",
            f"    f{k} = {self._code.name(decoder(item.type))}({usual}, data[p:p + w])",
            "    p += w",
            "else:",
            *("    " + line for line in self._any_value(item, name, k=k, is_read=True)),
        )

    def _any_value(self, item: Item, name: bytes, *, k: str, is_read: bool) -> list[str]:
        """A value of whatever type, handed to its function or passed over."""
        lines = [
            f"if not data.startswith({self._code.name(name)}, p + 1):",
            "    break",
            "t = data[p]",
            f"p += {len(name) + 1}",
            "w = widths[t]",
            "if w < 0:",
            f"    if w == {_NO_WIDTH}:",
            "        break",
            "    w = read_count(data, p)[0] - w - 1",
            "    if w < 0:",
            "        break",
        ]
        if is_read:
            function = self._code.name(decoder(item.type))
            lines.append(f"f{k} = {function}(t, data[p:p + w]) if t != {NULL} else PG_NULL")
        return [*lines, "p += w"]

    @staticmethod
    def _has_usual(column_type: ColumnType) -> bool:
        """Any string does; others are measured or parsed first."""
        return column_type.characters_max is None and column_type.kind is not Kind.JSON

    def _write_blob(self, item: Item, name: bytes) -> None:
        """A value that may be missing, its bytes taken over; whatever looks otherwise goes the slow way."""
        k, blob = item.index, item.blob
        assert blob is not None, "so says the caller"
        size = 1 + len(name)
        self._line(
            f"if data.startswith({self._code.name(bytes([blob.bson_type]) + name)}, p):",
            f"    a{k} = p + {size + 4 + len(blob.before)}",
            f"    l{k} = read_count(data, p + {size})[0] - {len(blob.after)}",
            f"    p = a{k} + l{k} + {len(blob.after)}",
            f"    if l{k} < 0 or p >= last or data[{self._mark_of(blob, k)}]:",
            "        break",
            f"    f{k} = pack_length(l{k}) + data[a{k}:a{k} + l{k}]",
        )
        self._write_null(item, name)

    @staticmethod
    def _mark_of(blob: BlobForm, k: int) -> str:
        """Where the one byte stands that has to be 0: a binary's subtype or a string's end."""
        return f"a{k} - 1" if blob.before else "p - 1"

    def _write_reversed(self, item: Item, name: bytes, form: FixedForm) -> None:
        k, size = item.index, 1 + len(name)
        end = size + form.pg_width
        self._line(
            f"if data.startswith({self._code.name(bytes([form.bson_type]) + name)}, p):",
            f"    f{k} = {self._code.name(form.pg_width.to_bytes(4, 'big'))} + data[p + {size}:p + {end}][::-1]",
            f"    p += {end}",
        )
        self._write_null(item, name)

    def _write_null(self, item: Item, name: bytes) -> None:
        self._line(
            f"elif data.startswith({self._code.name(bytes([NULL]) + name)}, p):",
            f"    f{item.index} = PG_NULL",
            f"    p += {1 + len(name)}",
            "else:",
            "    break",
        )

    def _constant(self, value: bytes) -> None:
        self._pending += value

    def _settle_constant(self) -> None:
        """Constants that follow each other are read and compared as one."""
        if self._pending:
            value, self._pending = self._pending, b""
            variable = f"h{len(self._read_names)}"
            self._expect(f"{len(value)}s", variable, f"{variable} == {self._code.name(value)}")

    def _expect(self, layout: str, name: str, test: str = "") -> None:
        self._settle_constant()
        self._read_layout += layout
        if name:
            self._read_names.append(name)
        if test:
            self._read_tests.append(test)

    def _mark(self, name: str) -> None:
        """Let `name` be the position of what is read next."""
        self._marks.append((name, struct.calcsize("<" + self._read_layout) + len(self._pending)))

    def _flush_reads(self) -> None:
        if not self._read_layout and self._pending:
            # Nothing but a constant: comparing in place is quicker than unpacking.
            size = len(self._pending)
            self._test(f"data.startswith({self._code.name(self._pending)}, p)")
            self._pending = b""
        else:
            self._settle_constant()
            size = struct.calcsize("<" + self._read_layout)
        if self._read_names:
            function = self._code.struct("<" + self._read_layout, "unpack_from")
            self._line(f"{', '.join(self._read_names)}, = {function}(data, p)")
            self._test(*self._read_tests)
        for name, offset in self._marks:
            self._line(f"{name} = p + {offset}")
        if size:
            self._line(f"p += {size}")
        self._read_layout, self._read_names, self._read_tests, self._marks = "", [], [], []

    def _test(self, *tests: str) -> None:
        if tests:
            self._line(f"if not ({' and '.join(tests)}):", "    break")

    # ---------------------------------------------------------------- writing

    def _write_row(self) -> None:
        self._pack("h", str(len(self._layout.items)))
        for item in self._layout.items:
            k = item.index
            if self._is_fixed(item) and item.fixed is not None:
                self._pack("i", str(item.fixed.pg_width))
                self._pack(item.fixed.pg_code, item.fixed.to_pg.format(v=f"v{k}"))
            elif self._is_blob(item):
                assert item.blob is not None, "so says _is_blob"
                least = len(item.blob.after)
                self._pack("i", f"l{k} - {least}")
                self._piece(f"data[a{k}:a{k} + l{k} - {least}]")
            else:
                self._piece(f"f{k}")
        self._flush_pack()
        pieces = self._pieces
        self._line(f"out += {pieces[0]}" if len(pieces) == 1 else f"out += join(({', '.join(pieces)}))")

    def _pack(self, layout: str, argument: str) -> None:
        self._pack_layout += layout
        self._pack_arguments.append(argument)

    def _piece(self, expression: str) -> None:
        self._flush_pack()
        self._pieces.append(expression)

    def _flush_pack(self) -> None:
        if self._pack_arguments:
            function = self._code.struct(">" + self._pack_layout, "pack")
            self._pieces.append(f"{function}({', '.join(self._pack_arguments)})")
            self._pack_layout, self._pack_arguments = "", []

    def _line(self, *lines: str) -> None:
        self._code.add(4, *lines)
