"""Shell examples in Markdown: found, typed into a shell, and compared with what is shown.

A fenced block of the language `console` is typed as it stands: `$ ` before a command, the lines that it prints to
stdout below it, where they are shown. What cannot be run says so, and why, behind the language: `console not-run: WHY`.
A command that ends in `# exit code N` has to end so, any other with 0.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
LANGUAGES = ("console", "text", "python", "toml", "yaml", "json", "sql")
"""Those that a block may be in. Only `console` is typed; `text` shows what nobody types."""

_FENCE = re.compile(r"^(?P<ticks>```+)(?P<info>.*)$")
_EXIT_CODE = re.compile(r"#\s*exit code (\d+)\s*$")
_ELLIPSIS = "…"
_LONGEST_S = 120.0
_MASKS = (
    # A time in words, whichever units it takes; then whatever else is a number or an id.
    (re.compile(r"(\d+ h )?(\d+ min )?\d+(\.\d+)? s\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "<id>"),
    (re.compile(r"\d[\d,.]*"), "<number>"),
    (re.compile(r" {2,}"), "  "),
)


def markdown_files() -> list[Path]:
    """Every document of the repository."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = listed.stdout.split() if listed.returncode == 0 else _without_git()
    return sorted(ROOT / name for name in found)


def _without_git() -> list[str]:
    """In a source distribution."""
    places = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", "connectors/**/*.md")
    return [str(path.relative_to(ROOT)) for place in places for path in ROOT.glob(place)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line to type, and what it is shown to print; None where nothing is shown."""

    text: str
    shown: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        found = _EXIT_CODE.search(self.text)
        return int(found[1]) if found else 0

    @property
    def is_background(self) -> bool:
        return self.text.rstrip().endswith("&")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of a document."""

    path: Path
    line: int
    info: str
    lines: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def language(self) -> str:
        return self.info.split()[0] if self.info.split() else ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def not_run(self) -> str:
        """Why not; empty where it is run."""
        _, marked, reason = self.info.partition("not-run:")
        return reason.strip() if marked else ""

    @property
    def commands(self) -> tuple[Command, ...]:
        found: list[tuple[str, list[str]]] = []
        for line in self.lines:
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                assert found, f"{self.place}: it begins with what no command has printed"
                found[-1][1].append(line)
        return tuple(Command(text=text, shown=tuple(shown)) for text, shown in found)


def blocks(path: Path) -> Iterator[Block]:
    """All fenced blocks of a document."""
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number, fence["ticks"], fence["info"].strip()), []
        elif opened is not None and line.strip() == opened[1]:
            yield Block(path=path, line=opened[0], info=opened[2], lines=tuple(lines))
            opened = None
        else:
            lines.append(line)
    assert opened is None, f"{path}: the block that begins in line {opened} has no end"


def masked(line: str) -> str:
    """A printed line without what is another number every time."""
    for pattern, instead in _MASKS:
        line = pattern.sub(instead, line)
    return line.rstrip()


def fits(shown: tuple[str, ...], printed: list[str]) -> bool:
    """What was printed is what is shown, numbers aside; a line `…` stands for any lines."""
    pattern = "\n".join(
        r"(.*\n)*.*" if line.strip() == _ELLIPSIS else re.escape(masked(line)) for line in (*shown, "<end>")
    )
    return re.fullmatch(pattern, "\n".join([*map(masked, printed), "<end>"])) is not None


@dataclass(slots=True, kw_only=True)
class Shell:
    """A bash that is typed into, one command after the other."""

    environ: Mapping[str, str]
    directory: Path
    _process: subprocess.Popen[str] | None = None
    _lines: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None
    _ended: bool = False

    def __enter__(self) -> Shell:
        with (self.directory / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                cwd=self.directory,
                env=dict(self.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def errors(self) -> str:
        """What has been printed on stderr so far."""
        return (self.directory / "stderr").read_text(encoding="utf-8", errors="replace")

    def type(self, command: Command) -> tuple[int, list[str]]:
        """Run it, in the background until it has printed what it is to; its exit code and what is on stdout by then."""
        assert self._process is not None
        assert self._process.stdin is not None
        marker = "<<ended>>"
        with self._changed:
            self._lines.clear()
        ending = "" if command.is_background else f"printf '\\n{marker} %d\\n' $?\n"
        self._process.stdin.write(f"{command.text}\n{ending}")
        self._process.stdin.flush()
        with self._changed:
            if command.is_background:
                self._wait(lambda: len(self._lines) >= len(command.shown), command)
                return 0, list(self._lines)
            self._wait(lambda: any(line.startswith(marker) for line in self._lines), command)
            *printed, last = self._lines
            # The blank line that the marker begins with, where the command ended its own.
            return int(last.split()[1]), printed[:-1] if printed and not printed[-1] else printed

    def _wait(self, is_there: object, command: Command) -> None:
        assert callable(is_there)
        came = self._changed.wait_for(lambda: is_there() or self._ended, timeout=_LONGEST_S)
        assert came, f"{command.text}: not done in {_LONGEST_S:g} s\n{self.errors}"
        assert is_there(), f"{command.text}: the shell has ended\n{self.errors}"

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._reader is not None
        # Whatever still runs in the background has our stdout open.
        self._process.stdin.write("kill $(jobs -p) 2>/dev/null; wait\n")
        self._process.stdin.close()
        self._process.wait(_LONGEST_S)
        self._reader.join(_LONGEST_S)
        self._process.stdout.close()
