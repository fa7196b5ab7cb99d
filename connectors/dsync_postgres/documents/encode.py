"""Writes the loop that turns binary COPY rows into BSON documents, one for each table.

The *quick* loop reads and writes whole runs of neighbours with one `struct`, and copies text in one piece: on narrow
rows that costs a third of converting column by column. It expects the columns it is made so for to have a value; a row
where one has none goes to the *careful* loop, which looks at each column on its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Set

import xxhash

from dsync_postgres.documents.code import Code
from dsync_postgres.documents.layout import Item, Layout
from dsync_postgres.documents.values import encoder

EncodeLoop = Callable[[bytes, int, int, bytearray, "MissedRow"], tuple[int, int, int]]
"""(data, position, end, out, missed) → position, rows, rows missed."""
MissedRow = Callable[[bytes, int, bytearray], int]
"""Encodes the one row at a position and says where the next begins."""

# What a damaged page makes the readers of values raise.
_ROW_ERRORS = (struct.error, LookupError, ValueError, OverflowError, StopIteration)


_pack_count = struct.Struct("<i").pack


def row_object_id(place: bytes, content: bytes) -> bytes:
    """The ObjectId of a row without key: its tid, which no other row of the snapshot has, and a hash of it.

    The hash tells apart rows that have had the same place at different times.
    """
    return place + xxhash.xxh3_64_digest(content)[:6]


def compile_encoder(layout: Layout, *, present: Set[int]) -> EncodeLoop:
    """The loop for a table, quick for the columns of these indexes; without a key its rows begin with a ctid."""
    writer = _Writer(layout, present=present)
    loop: EncodeLoop = writer.compile()  # type: ignore[assignment]  # a function made by exec has no static type
    return loop


class _Writer:
    """Builds the source of one loop: first what reads a row into variables, then what writes the document."""

    def __init__(self, layout: Layout, *, present: Set[int]) -> None:
        self._layout = layout
        self._present = present
        self._code = Code(
            objects={"join": b"".join, "errors": _ROW_ERRORS, "object_id": row_object_id, "pack_count": _pack_count}
        )
        # The variables that the next unpack fills, and what must hold of them.
        self._read_layout = ""
        self._read_names: list[str] = []
        self._read_tests: list[str] = []
        # The arguments of the next pack, and the finished pieces of the document.
        self._pack_layout: list[str] = []
        self._pack_arguments: list[str] = []
        self._pending = b""
        self._pieces: list[str] = []
        self._constant_bytes = 0
        self._variable_bytes: list[str] = []

    def compile(self) -> object:
        self._code.add(
            0,
            "def encode(data, p, last, out, missed):",
            "    rows = misses = 0",
            "    while p < last:",
            "        start = p",
            "        try:",
            "            while p < last:",
            "                start = p",
        )
        self._write_reads()
        self._write_document()
        self._code.add(
            0,
            "                rows += 1",
            "            else:",
            "                return p, rows, misses",
            "        except errors:",
            "            pass",
            "        p = missed(data, start, out)",
            "        rows += 1",
            "        misses += 1",
            "    return p, rows, misses",
        )
        return self._code.compile("encode")

    def _is_fixed(self, item: Item) -> bool:
        return item.index in self._present and item.fixed is not None

    def _is_blob(self, item: Item) -> bool:
        return item.index in self._present and item.blob is not None

    # ---------------------------------------------------------------- reading

    def _write_reads(self) -> None:
        count = len(self._layout.items)
        self._expect("h", "n", f"n == {count if self._layout.key else count + 1}")
        if not self._layout.key:
            self._expect("i", "lt", "lt == 6")
            self._expect("6s", "place")
            self._flush_reads()
            self._line("content = p")
        for item in self._layout.items:
            self._write_read(item)
        self._flush_reads()

    def _write_read(self, item: Item) -> None:
        k = item.index
        if self._is_fixed(item) and item.fixed is not None:
            self._expect("i", f"l{k}", f"l{k} == {item.fixed.pg_width}")
            self._expect(item.fixed.pg_code, f"v{k}", item.fixed.to_bson_if.format(v=f"v{k}"))
            return
        if self._is_blob(item):
            self._expect("i", f"l{k}", f"l{k} >= 0")
            self._flush_reads()
            self._line(f"a{k} = p", f"p += l{k}")
            return
        self._expect("i", f"l{k}")
        self._flush_reads()
        self._line(
            f"if l{k} < 0:",
            f"    e{k} = {self._code.name(bytes([0x0A]) + item.name)}",
            "else:",
            f"    e{k} = {self._element_of(item)}",
            f"    p += l{k}",
        )

    def _element_of(self, item: Item) -> str:
        """An expression for the element of a value that may be missing; a call costs more than all that it saves."""
        k = item.index
        value = f"data[p:p + l{k}]"
        if item.blob is not None:
            head = self._code.name(bytes([item.blob.bson_type]) + item.name)
            inner = f"{self._code.name(item.blob.before)} + {value}" if item.blob.before else value
            tail = f" + {self._code.name(item.blob.after)}" if item.blob.after else ""
            return f"{head} + pack_count(l{k} + {len(item.blob.after)}) + {inner}{tail}"
        if item.fixed is not None and item.fixed.is_reversed:
            return f"{self._code.name(bytes([item.fixed.bson_type]) + item.name)} + {value}[::-1]"
        return f"{self._code.name(encoder(item.type))}({self._code.name(item.name)}, {value})"

    def _expect(self, layout: str, name: str, test: str = "") -> None:
        self._read_layout += layout
        self._read_names.append(name)
        if test:
            self._read_tests.append(test)

    def _flush_reads(self) -> None:
        if not self._read_names:
            return
        layout = ">" + self._read_layout
        self._line(f"{', '.join(self._read_names)}, = {self._code.struct(layout, 'unpack_from')}(data, p)")
        if self._read_tests:
            self._line(f"if not ({' and '.join(self._read_tests)}):", "    break")
        self._line(f"p += {struct.calcsize(layout)}")
        self._read_layout, self._read_names, self._read_tests = "", [], []

    # ---------------------------------------------------------------- writing

    def _write_document(self) -> None:
        # The length of the whole comes first and is known last.
        self._pack("i", "LENGTH", 4)
        self._write_id()
        for item in self._layout.fields:
            self._write_element(item, item.name)
        self._constant(b"\0")
        self._flush_pack()
        length = " + ".join((str(self._constant_bytes), *self._variable_bytes))
        pieces = [piece.replace("LENGTH", length, 1) for piece in self._pieces]
        self._line(f"out += {pieces[0]}" if len(pieces) == 1 else f"out += join(({', '.join(pieces)}))")

    def _write_id(self) -> None:
        key = self._layout.key
        if not key:
            self._constant(b"\x07" + self._layout.id_name)
            self._pack("12s", "object_id(place, data[content:p])", 12)
        elif len(key) == 1:
            self._write_element(key[0], self._layout.id_name)
        else:
            self._constant(b"\x03" + self._layout.id_name)
            before, variable_before = self._constant_bytes, len(self._variable_bytes)
            self._pack("i", "ID_LENGTH", 4)
            at = (len(self._pieces), len(self._pack_arguments) - 1)
            for item in key:
                self._write_element(item, item.column_name)
            self._constant(b"\0")
            parts = (str(self._constant_bytes - before), *self._variable_bytes[variable_before:])
            self._replace(at, "ID_LENGTH", " + ".join(parts))

    def _replace(self, at: tuple[int, int], placeholder: str, value: str) -> None:
        piece, argument = at
        if piece < len(self._pieces):
            self._pieces[piece] = self._pieces[piece].replace(placeholder, value, 1)
        else:
            self._pack_arguments[argument] = value

    def _write_element(self, item: Item, name: bytes) -> None:
        k = item.index
        if self._is_fixed(item) and item.fixed is not None:
            self._constant(bytes([item.fixed.bson_type]) + name + item.fixed.bson_prefix)
            width = struct.calcsize("<" + item.fixed.bson_code)
            self._pack(item.fixed.bson_code, item.fixed.to_bson.format(v=f"v{k}"), width)
        elif self._is_blob(item):
            assert item.blob is not None, "so says _is_blob"
            self._constant(bytes([item.blob.bson_type]) + name)
            self._pack("i", f"l{k} + {len(item.blob.after)}", 4)
            self._constant(item.blob.before)
            self._piece(f"data[a{k}:a{k} + l{k}]", f"l{k}")
            self._constant(item.blob.after)
        elif name == item.name:
            self._piece(f"e{k}", f"len(e{k})")
        else:
            self._piece(f"e{k}[:1] + {self._code.name(name)} + e{k}[{1 + len(item.name)}:]", f"len(e{k})")
            self._constant_bytes += len(name) - len(item.name)

    def _constant(self, value: bytes) -> None:
        self._pending += value
        self._constant_bytes += len(value)

    def _pack(self, layout: str, argument: str, size: int) -> None:
        self._settle_constant()
        self._pack_layout.append(layout)
        self._pack_arguments.append(argument)
        self._constant_bytes += size

    def _settle_constant(self) -> None:
        """Constants that follow each other are written as one."""
        if self._pending:
            self._pack_layout.append(f"{len(self._pending)}s")
            self._pack_arguments.append(self._code.name(self._pending))
            self._pending = b""

    def _piece(self, expression: str, length: str) -> None:
        self._flush_pack()
        self._pieces.append(expression)
        self._variable_bytes.append(length)

    def _flush_pack(self) -> None:
        if self._pending and not self._pack_arguments:
            self._pieces.append(self._code.name(self._pending))
            self._pending = b""
            return
        self._settle_constant()
        if self._pack_arguments:
            function = self._code.struct("<" + "".join(self._pack_layout), "pack")
            self._pieces.append(f"{function}({', '.join(self._pack_arguments)})")
            self._pack_layout, self._pack_arguments = [], []

    def _line(self, *lines: str) -> None:
        self._code.add(4, *lines)
