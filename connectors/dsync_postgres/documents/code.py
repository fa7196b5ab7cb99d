"""Python source that is written for a table, and compiled."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Code:
    """Python source being written, and the objects that it refers to by name.

    Nothing that comes from a database is ever written into the source: names and values are objects.
    """

    objects: dict[str, object] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)
    _names: dict[tuple[type, object], str] = field(default_factory=dict)

    def add(self, indent: int, *lines: str) -> None:
        self._lines += ["    " * indent + line for line in lines]

    def name(self, value: object, prefix: str = "c") -> str:
        """A name that stands for a hashable object in the source."""
        name = self._names.setdefault((type(value), value), f"{prefix}{len(self.objects)}")
        self.objects[name] = value
        return name

    def struct(self, layout: str, method: str) -> str:
        """A name for `struct.Struct(layout).pack` or `.unpack_from`."""
        return self.name(_Bound(layout=layout, method=method), prefix="s")

    def compile(self, function: str) -> object:
        """Run the source and return the function that it defines."""
        namespace = {
            name: value.resolve() if isinstance(value, _Bound) else value for name, value in self.objects.items()
        }
        source = "\n".join(self._lines) + "\n"
        # The text is made from templates of this package alone; see the class.
        exec(compile(source, f"<{function}>", "exec"), namespace)  # noqa: S102
        return namespace[function]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    layout: str
    method: str

    def resolve(self) -> object:
        return getattr(struct.Struct(self.layout), self.method)
