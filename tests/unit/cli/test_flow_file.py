"""A flow file holds the same keys as the flags; what is wrong in it is named, and its values never are."""

from pathlib import Path

import click
import pytest
from pydantic import ValidationError

from dsync.app.requests import SyncRequest
from dsync.cli.commands.doctor import doctor
from dsync.cli.commands.plan import plan
from dsync.cli.commands.sync import sync
from dsync.cli.commands.verify import verify
from dsync.cli.flow_file import FlowFile, load_flow_file
from dsync.cli.options import Size
from dsync.coordinator.spec import FlowSpec
from dsync.protocol.errors import RequestError
from tests.unit.cli.running import run_here


def _write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "flow.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _refusal(tmp_path: Path, text: str, **environ: str) -> str:
    with pytest.raises(RequestError) as refused:
        load_flow_file(_write(tmp_path, text), environ)
    return str(refused.value)


def test_every_key_is_read_as_its_flag_would_be(tmp_path: Path) -> None:
    """Sizes have units, one namespace needs no list, dashes stay dashes."""
    read = load_flow_file(
        _write(
            tmp_path,
            """
            source: postgresql://a/shop
            sink: env:SINK
            namespace: shop.orders
            mode: copy
            parallel: 4
            page-bytes: 2MiB
            memory-limit: 1GiB
            on-existing: append
            schema: none
            no-owner: true
            log-format: json
            """,
        )
    )

    assert (read.source, read.sink, read.namespace, read.mode) == (
        "postgresql://a/shop",
        "env:SINK",
        ("shop.orders",),
        "copy",
    )
    assert (read.parallel, read.page_bytes, read.memory_limit) == (4, 2 * 1024**2, 1024**3)
    assert (read.on_existing, read.schema_mode, read.no_owner, read.log_format) == ("append", "none", True, "json")
    assert "verify" not in read.given


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    """It is no mistake: comments alone are a beginning."""
    assert load_flow_file(_write(tmp_path, "# nothing yet\n")).given == frozenset()


def test_variables_are_replaced_after_parsing(tmp_path: Path) -> None:
    """So that no content of a variable can add a key; `$${` is a plain `${`."""
    read = load_flow_file(
        _write(
            tmp_path, "source: 'postgresql://app:${PW}@a/${DB:-shop}'\nparallel: ${N}\nflow: $${x}\nstate: ${E:-s}\n"
        ),
        {"PW": "x\nsink: evil", "N": "3", "E": ""},
    )

    assert read.source == "postgresql://app:x\nsink: evil@a/shop"
    assert (read.parallel, read.flow, read.state, read.sink) == (3, "${x}", "s", None)


def test_an_endpoint_may_have_its_options_beside_it(tmp_path: Path) -> None:
    """They mean the same as in the URI's query."""
    read = load_flow_file(
        _write(
            tmp_path,
            """
            source:
              uri: postgresql://a/shop?sslmode=require
              password: env:PGPW
              partition_bytes: 1048576
              flag: true
              list: [a, b&c]
            """,
        )
    )

    assert read.source == (
        "postgresql://a/shop?sslmode=require&password=env:PGPW&partition_bytes=1048576&flag=true&list=a%2Cb%26c"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("page_bytes: 2MiB", "there is no option 'page_bytes'; did you mean 'page-bytes'?"),
        ("surprise: 1", "there is no option 'surprise'; known are "),
        ("also: 'null://'", "there is no option 'also'"),
        ("rate-limit: fast", "rate-limit: 'fast' is no rate: write rows as in 5000/s, or bytes as in 20MiB/s"),
        ("retry-for: 5 parsecs", "retry-for: '5 parsecs' is no time"),
        ("parallel: many", "parallel: "),
        ("parallel: 0", "parallel: "),
        ("page-bytes: 1", "page-bytes: "),
        ("memory-limit: 4 parsecs", "memory-limit: '4 parsecs' is no size"),
        ("mode: sometimes", "mode: "),
        ("mode: copy\nmode: copy", "line 2: not YAML: the key 'mode' stands twice"),
        ("source: [", "not YAML"),
        ("- a\n- b", "it must be a mapping"),
        ("source: {password: x}", "an endpoint is a URI, or a mapping with `uri`"),
        ("source: {uri: 'env:SRC', password: x}", "options cannot be added to a reference"),
        ("sink: ${SECRET_SINK}", "sink: the environment variable SECRET_SINK is not set"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    """With the file, the key and what to do."""
    message = _refusal(tmp_path, text)

    assert said in message
    assert message.startswith(f"flow file {tmp_path / 'flow.yaml'}")


@pytest.mark.parametrize(
    "text",
    [
        "source: postgresql://app:canary@a/shop\n  sink: [",
        "parallel: canary",
        "mode: canary",
        "source:\n  - canary",
        "json: canary",
        "no-owner: ${PW}",
    ],
)
def test_no_value_is_ever_repeated(tmp_path: Path, text: str) -> None:
    """It may be the password that slipped into the wrong line."""
    assert "canary" not in _refusal(tmp_path, text, PW="canary")


def test_a_file_that_cannot_be_read_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, with the path and why."""
    printed = run_here(capsys, "sync", "-c", str(tmp_path / "none.yaml"), "--json")

    assert printed.exit_code == 2
    assert (
        printed.json["error"]["message"]
        == f"flow file {tmp_path / 'none.yaml'}: cannot be read (No such file or directory)"
    )
    assert printed.json["command"] == "sync"


def test_flags_win_over_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands on the command line is what happens; the rest comes from the file, arguments included."""
    asked = _capture_request(monkeypatch)
    path = _write(
        tmp_path,
        "{source: 'random://?seed=1', sink: 'null://', mode: copy, parallel: 3, flow: nightly, namespace: [a, b],"
        " verify: true}",
    )

    printed = run_here(capsys, "sync", "random://?seed=2", "-c", path, "--parallel", "5", "--json")

    assert printed.exit_code == 3, printed.stderr
    (request,) = asked
    assert (request.source, request.sink, request.parallel) == ("random://?seed=2", "null://", 5)
    assert (request.flow, request.namespaces, request.verify) == ("nightly", ("a", "b"), True)


def _capture_request(monkeypatch: pytest.MonkeyPatch) -> list[SyncRequest]:
    """Let `sync` take note of its request and go no further."""
    from dsync.app import sync as application
    from dsync.protocol.errors import PermanentError

    asked: list[SyncRequest] = []

    async def refuse(request: SyncRequest, *_: object) -> None:
        asked.append(request)
        raise PermanentError("this far and no further")

    monkeypatch.setattr(application, "sync", refuse)
    return asked


def test_settings_stand_in_the_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`json: true` makes even a refusal an object."""
    file = _write(tmp_path, "json: true\nsource: random://\nsink: null://\nmode: stream\non-existing: drop\n")
    printed = run_here(capsys, "-c", file, "sync")

    assert printed.exit_code == 2
    assert "--mode stream copies nothing" in printed.json["error"]["message"]


def _keys() -> set[str]:
    return {field.alias or name for name, field in FlowFile.model_fields.items()}


def _flags(command: click.Command) -> set[str]:
    names = {option.removeprefix("--") for p in command.params for option in p.opts if option.startswith("--")}
    return names - {"config", "version", "help"}


def test_keys_and_flags_are_the_same() -> None:
    """Whoever knows the one knows the other."""
    flags = _flags(sync) | _flags(plan) | _flags(doctor) | _flags(verify)

    assert flags - _keys() == set()
    assert _keys() - flags == set()


def test_the_file_and_the_flags_have_the_limits_of_the_specification() -> None:
    """A number that one of them lets through never fails in the other, or as a bug in the specification."""
    ends = {"source": {"reference": "a", "address": ""}, "sink": {"reference": "b", "address": ""}}
    sizes = {p.name: p.type for p in sync.params if isinstance(p.type, Size)}
    for name in ("page_bytes", "memory_limit"):
        limits = sizes[name]
        assert isinstance(limits, Size)
        for allowed in filter(None, (limits.least, limits.most)):
            FlowSpec.model_validate({**ends, name: allowed})
            FlowFile.model_validate({name.replace("_", "-"): allowed})
        for refused in (limits.least - 1, *([limits.most + 1] if limits.most else [])):
            for model, value in ((FlowSpec, {**ends, name: refused}), (FlowFile, {name.replace("_", "-"): refused})):
                with pytest.raises(ValidationError):
                    model.model_validate(value)


def test_a_schema_for_editors_can_be_made_of_it() -> None:
    """With the keys as they are written, and a sentence each."""
    schema = FlowFile.model_json_schema()

    assert set(schema["properties"]) == _keys()
    assert schema["additionalProperties"] is False
    assert all(key["description"] for key in schema["properties"].values())
