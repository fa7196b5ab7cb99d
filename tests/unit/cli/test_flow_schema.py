"""The published schema says of a flow file what reading it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsync.cli.flow_file import FlowFile, load_flow_file
from dsync.cli.flow_schema import flow_schema, flow_schema_text
from dsync.protocol.errors import RequestError
from tests.support.json_schema import problems
from tests.unit.cli.running import run_here

_ROOT = Path(__file__).resolve().parents[3]
_EXAMPLES = sorted((_ROOT / "examples").rglob("*.yaml"))
_HINT = "# yaml-language-server: $schema="


def test_what_is_published_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    """In docs/, and by `dsync flow-schema`."""
    printed = run_here(capsys, "flow-schema")
    wrapped = run_here(capsys, "flow-schema", "--json")

    assert (_ROOT / "docs/flow.schema.json").read_text() == flow_schema_text() == printed.stdout
    assert wrapped.json["result"]["schema"] == flow_schema()


def test_every_key_is_there_with_a_sentence() -> None:
    """And no other, but the second name of one."""
    keys = {field.alias or name for name, field in FlowFile.model_fields.items()}
    schema = flow_schema()

    assert set(schema["properties"]) == keys | {"namespaces"}
    assert all(key["description"] for key in schema["properties"].values())
    assert "null" not in json.dumps(schema["properties"])


@pytest.mark.parametrize("path", _EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid_and_names_the_schema(path: Path) -> None:
    """For editors by its first line, relative to where it lies."""
    text = path.read_text(encoding="utf-8")
    hint = text.splitlines()[0]

    assert list(problems(yaml.safe_load(text), flow_schema())) == []
    assert load_flow_file(str(path), {}).source
    assert hint.startswith(_HINT)
    assert (path.parent / hint.removeprefix(_HINT)).resolve() == _ROOT / "docs/flow.schema.json"


def test_there_are_examples() -> None:
    """Or the test above would look at none."""
    assert _EXAMPLES


_GOOD: tuple[dict[str, Any], ...] = (
    {},
    {"source": "postgresql://a/shop", "sink": {"uri": "postgresql://b/shop", "password": "env:PW", "list": ["a", 1]}},
    {"namespace": "shop.*", "mode": "copy", "parallel": 4, "verify": True},
    {"namespaces": ["a", "b"], "page-bytes": "2MiB", "memory-limit": 1 << 30},
    {"dead-letters": 0},
    {"dead-letters": "shop.*=5"},
    {"dead-letters": [100, "shop.orders=0"]},
    {"dead-letters": {"shop.orders": 0, "log": 5}},
    {"page-bytes": "65536", "memory-limit": "1.5 GiB", "verbose": 2},
    {"parallel": "${N:-3}", "mode": "${MODE:-copy}", "verify": "${VERIFY:-true}", "memory-limit": "${M:-1g}"},
)
_BAD: tuple[dict[str, Any], ...] = (
    {"page_bytes": "2MiB"},
    {"source": {"password": "x"}},
    {"source": 5},
    {"source": ["a"]},
    {"namespace": 7},
    {"namespace": [["a"]]},
    {"mode": "sometimes"},
    {"parallel": 0},
    {"parallel": "many"},
    {"parallel": 257},
    {"page-bytes": 1},
    {"page-bytes": "4 parsecs"},
    {"memory-limit": "x"},
    {"dead-letters": -1},
    {"dead-letters": "many"},
    {"dead-letters": ["shop.orders=x"]},
    {"dead-letters": {"shop.orders": -1}},
    {"dead-letters": True},
    {"verify": "perhaps"},
    {"verbose": -1},
    {"json": []},
)


@pytest.mark.parametrize("content", _GOOD, ids=json.dumps)
def test_what_can_be_read_fits(tmp_path: Path, content: dict[str, Any]) -> None:
    """An editor underlines nothing that works."""
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(content))

    load_flow_file(str(path), {})
    assert list(problems(content, flow_schema())) == []


@pytest.mark.parametrize("content", _BAD, ids=json.dumps)
def test_what_cannot_be_read_does_not_fit(tmp_path: Path, content: dict[str, Any]) -> None:
    """And it underlines what does not."""
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(content))

    with pytest.raises(RequestError):
        load_flow_file(str(path), {})
    assert list(problems(content, flow_schema()))
