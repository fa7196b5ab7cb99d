"""What the command line takes, refuses and prints, before anything is contacted."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dsync.cli import main, root
from dsync.cli.root import COMMANDS
from tests.unit.cli.running import run_here

LATER_FLAGS = (
    "--also=null://",
    "--transform=mapping:x",
)
LATER_COMMANDS = (
    "new",
    "transform",
)


def _all_commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(root.dsync)
    for name in root.dsync.list_commands(context):
        command = root.dsync.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner in command.commands.values():
                yield f"{name} {inner.name}", inner


def test_every_option_says_what_it_does() -> None:
    """In a sentence, which ends with a full stop or its default in brackets."""
    options = [
        (name, parameter)
        for name, command in [("dsync", root.dsync), *_all_commands()]
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]

    assert len(options) > 100
    for name, option in options:
        assert option.help, f"{name} {option.opts[-1]} has no help"
        assert option.help[-1] in ".]", f"{name} {option.opts[-1]}: {option.help}"
        assert len(option.help.split()) >= 3, f"{name} {option.opts[-1]}: {option.help}"


def test_every_command_says_what_it_does() -> None:
    """In a first line that the list of commands repeats without importing the command."""
    for name, command in _all_commands():
        assert command.help, f"{name} has no help"
        if name in COMMANDS:
            assert command.short_help == COMMANDS[name][1]


@pytest.mark.parametrize("flag", LATER_FLAGS)
def test_what_comes_later_is_refused_now(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    """Never accepted and ignored."""
    printed = run_here(capsys, "sync", "random://", "null://", "--mode", "copy", flag, "--json")

    assert printed.exit_code == 2
    assert printed.json["error"]["class"] == "UsageError"


@pytest.mark.parametrize("command", LATER_COMMANDS)
def test_a_command_that_comes_later_is_unknown(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """As any other word is."""
    printed = run_here(capsys, command, "x")

    assert printed.exit_code == 2
    assert f"No such command '{command}'" in printed.stderr
    assert printed.stdout == ""


@pytest.mark.parametrize("command", ["sync", "plan", "doctor", "verify"])
def test_what_is_about_a_copy_does_not_go_with_a_stream(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """Before anything is contacted: these ends do not even exist. `sync`'s options fit the other verbs too."""
    for mode in ((), ("--mode", "full"), ("--mode", "copy"), ("--mode", "stream")):
        assert "nosuch://" in run_here(capsys, command, "nosuch://a", "nosuch://b", *mode).stderr
    ends = ("nosuch://a", "nosuch://b")
    refused = run_here(capsys, command, *ends, "--mode", "stream", "--on-existing", "truncate", "--yes")

    assert refused.exit_code == 2
    assert "--mode stream copies nothing" in refused.stderr


def test_a_copy_has_no_stream_to_catch_up_with(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_here(capsys, "sync", "nosuch://a", "nosuch://b", "--mode", "copy", "--until-caught-up")

    assert printed.exit_code == 2
    assert "leave one of them out" in printed.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sync",), "Missing argument 'SOURCE'"),
        (("sync", "random://"), "Missing argument 'SINK'"),
        (("plan", "random://"), "Missing argument 'SINK'"),
        (("doctor",), "Missing argument 'SOURCE'"),
        (("verify",), "give SOURCE and SINK, or one FLOW"),
        (("verify", "random://"), "Missing argument 'SINK'"),
        (("verify", "a", "b", "c"), "give SOURCE and SINK, or one FLOW"),
        (("reset", "--state", "{tmp}/none.db"), "name the flow"),
        (("reset", "nightly", "--state", "{tmp}/none.db"), "there is no flow nightly"),
        (("status", "nightly", "--state", "{tmp}/none.db"), "there is no flow nightly"),
        (("verify", "nightly", "--state", "{tmp}/none.db"), "there is no flow nightly"),
        (("serve", "random://"), "Missing option '--listen'"),
        (("connectors", "show", "nosuch"), "no connector named 'nosuch'"),
        (("sync", "nosuch://a", "random://", "--mode", "copy", "--state", "{tmp}/s.db"), "no connector for nosuch://"),
        (("sync", "a", "b", "c"), "unexpected extra argument"),
        (("sync", "a", "b", "--mode", "copy", "--page-bytes", "1KiB"), "at least 64 KiB and at most 32 MiB"),
        (("sync", "a", "b", "--mode", "copy", "--memory-limit", "x"), "is no size"),
        (("sync", "a", "b", "--mode", "copy", "--parallel", "0"), "0 is not in the range"),
        (("serve", "random://", "--listen", "7000"), "write HOST:PORT"),
        (("serve", "random://", "--listen", "0.0.0.0:0"), "plaintext is for this machine alone"),
        (("serve", "random://", "--listen", "127.0.0.1:0", "--token", "abc"), "--token takes env:NAME or file:PATH"),
        (("serve", "random://", "--listen", "127.0.0.1:0", "--tls-cert", "x"), "belong together"),
        (("serve", "random://", "--listen", "127.0.0.1:0", "--client-ca", "x"), "takes TLS"),
        (("serve", "grpc://127.0.0.1:1", "--listen", "127.0.0.1:0"), "served by somebody already"),
    ],
)
def test_a_wrong_request_exits_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: object, arguments: tuple[str, ...], said: str
) -> None:
    """On stderr for people, and as one object for scripts."""
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    for_people = run_here(capsys, *filled)
    for_scripts = run_here(capsys, *filled, "--json")

    assert (for_people.exit_code, for_scripts.exit_code) == (2, 2)
    assert said in for_people.stderr
    assert for_people.stdout == ""
    assert said in for_scripts.json["error"]["message"]
    assert (for_scripts.json["ok"], for_scripts.json["result"]) == (False, None)


@pytest.mark.parametrize("policy", ["truncate", "drop"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_deleting_rows_needs_a_yes(capsys: pytest.CaptureFixture[str], policy: str, more: tuple[str, ...]) -> None:
    """Without a terminal nobody can give one, so the flag must."""
    printed = run_here(capsys, "sync", "nosuch://a", "nosuch://b", "--mode", "copy", "--on-existing", policy, *more)

    assert printed.exit_code == 2
    assert "give --yes to go on" in printed.stderr
    asked = run_here(
        capsys, "sync", "nosuch://a", "nosuch://b", "--mode", "copy", "--on-existing", policy, "--yes", *more
    )
    assert "no connector for nosuch://" in asked.stderr


def test_options_that_stand_everywhere_stand_before_and_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody should have to remember where."""
    for arguments in (
        ("--json", "connectors", "list"),
        ("connectors", "--json", "list"),
        ("connectors", "list", "--json"),
    ):
        printed = run_here(capsys, *arguments)
        assert printed.exit_code == 0
        assert printed.json["command"] == "connectors list"
        assert {one["name"] for one in printed.json["result"]["connectors"]} >= {"postgres", "random", "null"}


def test_without_any_flow_the_list_is_empty(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    """It is no error, and asking makes no state."""
    for command in ("flows", "status"):
        printed = run_here(capsys, command, "--state", f"{tmp_path}/none.db", "--json")
        assert printed.exit_code == 0
        assert printed.json["result"] == {"flows": []}
    assert os.listdir(str(tmp_path)) == []


def test_version_and_help_need_nothing_heavy() -> None:
    """They take less than 0.3 s: neither gRPC, nor a database's driver, nor pydantic is imported."""
    heavy = ("grpc", "sqlalchemy", "pydantic", "psycopg", "structlog", "rich", "bson", "yaml", "asyncio")
    for flag in ("--help", "--version"):
        program = (
            "import sys; from dsync.cli.main import execute; code = execute([sys.argv[1]]);"
            f" print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = subprocess.run([sys.executable, "-c", program, flag], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)

        assert ended.stderr.strip() == "[]"
        # Processor time: the machine may have others to serve.
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_a_sync_without_metrics_does_not_pay_for_them(tmp_path: Path) -> None:
    """Their library is imported by who asks for them."""
    program = (
        "import sys; from dsync.cli.main import execute; code = execute(sys.argv[1:]);"
        " print('prometheus_client' in sys.modules); sys.exit(code)"
    )
    sync = ("sync", "random://?documents=10", "null://", "--mode", "copy", "--state", f"{tmp_path}/state.db", "-q")
    for more, is_imported in ((), "False"), (("--metrics", "0"), "True"):
        ended = subprocess.run(
            [sys.executable, "-c", program, *sync, "--again", *more], capture_output=True, text=True, check=True
        )
        assert ended.stdout.split()[-1] == is_imported


def test_the_version_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever comes first on the line."""
    for arguments in (("--version", "--json"), ("--json", "--version"), ("sync", "--version", "--json")):
        assert run_here(capsys, *arguments).json["result"]["version"]


def test_windows_is_told_of_wsl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything else, as an environment that is not fit: exit 3."""
    monkeypatch.setattr(main, "_is_windows", lambda: True)
    printed = run_here(capsys, "sync", "--json")

    assert printed.exit_code == 3
    assert "On Windows use WSL" in printed.json["error"]["message"]


def test_a_password_in_an_argument_is_in_no_message(capsys: pytest.CaptureFixture[str]) -> None:
    """Also not where the line cannot be parsed and would be quoted."""
    secret = "canary-7f3a"
    uri = f"postgresql://app:{secret}@127.0.0.1:1/shop"
    for arguments in (
        ("sync", uri, uri, uri),
        ("sync", uri, uri, "--mode", "copy"),
        ("sync", f"{uri}?bogus={secret}&password={secret}", uri, "--mode", "copy"),
        ("sync", uri, uri, "--mode", uri),
        ("plan", uri, f"nosuch://x:{secret}@y"),
        ("doctor", uri, "-vv"),
        ("verify", uri, "x", "--page-bytes", uri),
        ("serve", uri, "--listen", secret, "--token", secret),
        (uri,),
        ("status", f"host=x password={secret}", "--state", "/nonexistent/x.db"),
        ("reset", uri, "--state", uri),
    ):
        for more in ((), ("--json",)):
            printed = run_here(capsys, *arguments, *more)
            assert printed.exit_code in (2, 3), printed.stderr
            assert secret not in printed.stdout + printed.stderr, arguments


def test_json_goes_to_a_reader_that_has_left_without_a_complaint() -> None:
    """`dsync connectors list | head -0` is no error."""
    program = "from dsync.cli.main import execute; import sys; sys.exit(execute(['connectors', 'list', '--json']))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(30) == 0


def test_an_object_is_readable_whatever_the_locale() -> None:
    """Names that the terminal's encoding lacks are escaped rather than fatal."""
    program = (
        "from dsync.cli.answer import Answer, print_answer; from dsync.cli.settings import Settings;"
        "print_answer(Answer(summary='🐘', result={'name': 'é'}), Settings(json=True))"
    )
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environ)

    assert json.loads(ended.stdout)["result"] == {"name": "é"}
