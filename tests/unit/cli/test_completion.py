"""What a shell offers at the Tab key, and that each of the three shells takes it."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsync.cli.completing import SHELLS
from dsync.cli.root import COMMANDS
from dsync.cli.shells import VARIABLE
from dsync.coordinator.spec import EndpointIdentity, FlowSpec
from dsync.state.names import flow_names
from dsync.state.store import Store
from tests.unit.cli.running import run_here

_BIN = Path(sys.executable).parent
_PATIENCE_S = 30.0


def _spec(source: str) -> FlowSpec:
    return FlowSpec(
        source=EndpointIdentity(reference=source, address=source), sink=EndpointIdentity(reference="b", address="b")
    )


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Three flows, one of them without a name."""
    path = tmp_path / "state.db"
    with Store.open(str(path)) as store:
        for name in ("nightly", "", "new-shop"):
            spec = _spec(name or "unnamed")
            store.create_flow(name=name or None, fingerprint=f"print {name}", spec=spec.model_dump(mode="json"))
    return path


def _offered(line: str, **environ: str) -> list[str]:
    """What bash is offered for a line with the cursor at its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DSYNC_", "XDG_"))}
    asked = {**kept, "HOME": "/nonexistent", "COMP_WORDS": line, VARIABLE: "bash_complete", **environ}
    ended = subprocess.run([_BIN / "dsync"], env=asked, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return [text.partition(",")[2] for text in ended.stdout.split()]


def test_commands_and_options_are_offered() -> None:
    """Those that stand everywhere too, before the command and after it."""
    assert _offered("dsync ") == list(COMMANDS)
    assert _offered("dsync st") == ["status"]
    assert _offered("dsync connectors ") == ["list", "show"]
    assert "--log-format" in _offered("dsync --l")
    assert _offered("dsync sync --memory") == ["--memory-limit"]
    assert _offered("dsync sync a b --mode ") == ["full", "copy", "stream"]
    assert _offered("dsync sync a b --mode=c") == ["copy"]


def test_schemes_are_offered_where_a_uri_stands() -> None:
    """Also where a URI stands before it, whose colon ends a word for bash."""
    assert {"postgresql://", "random://", "grpcs://", "env:", "file:"} <= set(_offered("dsync sync "))
    assert _offered("dsync sync postgresql://a/shop nu") == ["null://"]
    assert _offered("dsync verify x --sink rand") == ["random://"]
    assert _offered("dsync serve gr") == ["grpc://", "grpcs://"]
    assert _offered("dsync sync env:DSYNC_TEST_E", DSYNC_TEST_END="secret-canary") == ["env:DSYNC_TEST_END"]
    assert _offered("dsync connectors show ran") == ["random"]


def test_flows_are_offered_by_name_from_the_state_that_the_line_names(state: Path) -> None:
    """An id for the one without a name; of all of them once an id has been begun."""
    with Store.open(str(state)) as store:
        ids = {summary.flow.name or "": summary.flow.flow for summary in store.list_flows()}

    assert set(_offered(f"dsync status --state {state} ")) == {"nightly", "new-shop", ids[""]}
    assert _offered(f"dsync reset --state {state} ni") == ["nightly"]
    assert _offered(f"dsync status --state {state} {ids['nightly'][:12]}") == [ids["nightly"]]
    assert "nightly" in _offered(f"dsync verify --state sqlite:///{state} ")
    assert _offered(f"dsync verify --state {state} nightly ni") == []
    assert _offered(f"dsync sync --state {state} --flow n") == ["new-shop", "nightly"]


def test_a_key_press_makes_and_breaks_nothing(tmp_path: Path) -> None:
    """No state, a file that is none, a state on a server: an empty offer, at once and without a word."""
    (tmp_path / "broken.db").write_text("no database")

    for state in (tmp_path / "none.db", tmp_path / "broken.db", "postgresql://127.0.0.1:1/x", tmp_path):
        assert flow_names(str(state)) == ()
        assert _offered(f"dsync status --state {state} ") == []
    assert os.listdir(tmp_path) == ["broken.db"]


def test_the_store_s_own_files_stay_as_they_are(state: Path) -> None:
    """What is read past the store must not migrate, lock or leave anything behind."""
    before = state.read_bytes()
    with Store.open(str(state)) as writer:
        assert len(flow_names(str(state))) == 3
        assert len(writer.list_flows()) == 3

    assert state.read_bytes() == before


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """So that `eval "$(dsync completion bash)"` can take it; --json has it in an object."""
    printed = run_here(capsys, "completion", shell)
    wrapped = run_here(capsys, "completion", shell, "--json")

    assert printed.exit_code == 0
    assert "_dsync_completion" in printed.stdout
    assert wrapped.json["result"]["script"].rstrip() == printed.stdout.rstrip()


def test_another_shell_is_a_wrong_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Named, with those that are known."""
    printed = run_here(capsys, "completion", "csh")

    assert printed.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in printed.stderr


class Terminal:
    """A shell at a terminal, typed into."""

    def __init__(self, arguments: list[str], environ: dict[str, str]) -> None:
        self._process, self._terminal = pty.fork()
        if self._process == 0:
            os.execvpe(arguments[0], arguments, environ)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Until this is on the screen; forgets everything up to it."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while (found := re.search(pattern, self.shown)) is None:
            ready, _, _ = select.select([self._terminal], [], [], max(deadline_s - time.monotonic(), 0))
            assert ready, f"{pattern!r} did not appear: {self.shown!r}"
            self.shown += os.read(self._terminal, 4096).decode("utf-8", "replace")
        self.shown = self.shown[found.end() :]
        return found[0]

    def close(self) -> None:
        os.kill(self._process, 9)
        os.waitpid(self._process, 0)
        os.close(self._terminal)


_INTERACTIVE = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
_BEFORE = {"bash": "PS1='ready> '", "zsh": "PS1='ready> '; autoload -Uz compinit; compinit -u -D"}


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell that has read the script."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    environ = {"PATH": f"{_BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    opened = Terminal(_INTERACTIVE[shell], environ)
    opened.type(f'{_BEFORE[shell]}; eval "$(dsync completion {shell})"; echo e""valuated\n')
    opened.wait_for("evaluated")
    opened.wait_for("ready> ")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("dsync quick\t", "dsync quickstart"),
        ("dsync sync postgresq\ta/shop", "dsync sync postgresql://a/shop"),
        ("dsync sync postgresql://a/shop nul\t", "dsync sync postgresql://a/shop null://"),
        ("dsync sync --memory\t1GiB", "dsync sync --memory-limit 1GiB"),
    ],
)
def test_a_shell_completes_a_line(terminal: Terminal, typed: str, completed: str) -> None:
    """Typed at a terminal; no blank behind a scheme, no colon twice."""
    terminal.type(typed)
    # Long enough to see what the key has brought; then the line is printed instead of run.
    terminal.wait_for(re.escape(completed.split()[-1][:9]) if " --memory" not in typed else "--memory-limit")
    terminal.type("\x01echo line: \n")

    assert terminal.wait_for(r"\nline: [^\r\n]*\r").strip().removeprefix("line: ").strip() == completed


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed here")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("dsync quick", "quickstart"),
        ("dsync sync postgresql://a/shop nul", "null://"),
        ("dsync --log-fo", "--log-format"),
    ],
)
def test_fish_completes_a_line(tmp_path: Path, typed: str, offered: str) -> None:
    """With what is said of it beside it."""
    environ = {"PATH": f"{_BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    program = f"dsync completion fish | source; complete -C '{typed}'"
    ended = subprocess.run(["fish", "-N", "-c", program], env=environ, capture_output=True, text=True, check=True)

    assert [line.partition("\t")[0] for line in ended.stdout.splitlines()] == [offered]
