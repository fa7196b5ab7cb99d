"""Every example in README and docs does what it says, on real servers."""

from __future__ import annotations

import asyncio
import re
import socket
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from dsync.cli.flow_schema import flow_schema
from dsync.sdk import types
from tests.integration.cli.documented import LANGUAGES, ROOT, Block, Command, Shell, blocks, fits, markdown_files
from tests.integration.cli.running import DSYNC, Dsync
from tests.support.databases import Database, DatabaseFactory
from tests.support.json_schema import problems

_BLOCKS = [block for path in markdown_files() for block in blocks(path)]
_TYPED = [block for block in _BLOCKS if block.language == "console"]
_RUN = [block for block in _TYPED if not block.not_run]
_NOT_RUN = {
    "README.md": ["it follows until Ctrl-C", "it installs", "these are the tests"],
}
"""By document, why: whoever marks another example comes by here."""
_URI = re.compile(r"postgresql://([ab])\.example/shop")
_PORT = re.compile(r"127\.0\.0\.1:\d+")


def _fill(uri: str) -> None:
    """The shop of the examples: a table with a key, one without, a view, an index."""
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in (
            "CREATE SCHEMA shop",
            "CREATE TABLE shop.orders (id bigint PRIMARY KEY, customer text NOT NULL, total numeric(10,2))",
            "INSERT INTO shop.orders SELECT n, 'customer ' || n, n FROM generate_series(1, 500) n",
            "CREATE TABLE shop.log (at timestamptz, line text)",
            "INSERT INTO shop.log SELECT now(), 'line ' || n FROM generate_series(1, 30) n",
            # Without an identity it could be copied, and not followed.
            "ALTER TABLE shop.log REPLICA IDENTITY FULL",
            "CREATE INDEX orders_customer ON shop.orders (customer)",
            "CREATE VIEW shop.large AS SELECT * FROM shop.orders WHERE total > 100",
            "ANALYZE",
        ):
            connection.execute(statement.encode())


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where temporary files go: open to the servers' user, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="dsync-docs-") as folder:
        path = Path(folder)
        path.chmod(0o1777)
        yield path


class Places:
    """What stands for the hosts and ports of the examples; databases are made when an example first names them."""

    def __init__(self, source_db: DatabaseFactory, sink_db: DatabaseFactory) -> None:
        self._makers: dict[str, Callable[[], Database]] = {"a": lambda: source_db(_fill), "b": sink_db}
        self._made: dict[str, Database] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    def filled_in(self, command: Command) -> Command:
        text = _PORT.sub(f"127.0.0.1:{self._port}", command.text).replace(".venv/bin/dsync", DSYNC)
        text = _URI.sub(lambda found: self._uri(found[1]), text)
        # What is set up already stays as it is: the tests run in it.
        text = re.sub(r"^make\b", f"make --no-print-directory -C {ROOT} -o .venv/.installed", text)
        return Command(text=text, shown=command.shown)

    def _uri(self, host: str) -> str:
        if host not in self._made:
            self._made[host] = self._makers[host]()
        # Without the password, as the examples are: it is in the environment.
        return re.sub(r":[^:@/]+@", "@", self._made[host].uri)


@pytest.mark.parametrize("block", _RUN, ids=lambda block: block.place)
def test_an_example_does_what_it_says(
    block: Block, dsync: Dsync, source_db: DatabaseFactory, sink_db: DatabaseFactory, scratch: Path
) -> None:
    """Each line ends with the exit code that it should, and prints what is shown, numbers aside."""
    places = Places(source_db, sink_db)
    password = psycopg.conninfo.conninfo_to_dict(source_db.server.uri())["password"]
    environ = {
        **dsync.environ,
        "PATH": f"{Path(DSYNC).parent}:{dsync.environ['PATH']}",
        "PGPASSWORD": str(password),
        "TMPDIR": str(scratch),
        # The examples show a million rows, which take their time.
        "ROWS": "2000",
    }
    with Shell(environ=environ, directory=dsync.directory) as shell:
        for command in block.commands:
            typed = places.filled_in(command)
            exit_code, printed = shell.type(typed)
            said = f"{block.place}: $ {typed.text}\n" + "\n".join(printed) + "\n" + shell.errors
            assert exit_code == command.exit_code, said
            if command.shown:
                assert fits(command.shown, printed), said


def test_what_is_not_run_is_counted() -> None:
    """Each is marked with its reason where it stands, and no other block of a language is passed over in silence."""
    marked: dict[str, list[str]] = {}
    for block in _TYPED:
        if block.not_run:
            marked.setdefault(str(block.path.relative_to(ROOT)), []).append(block.not_run)

    assert marked == _NOT_RUN
    assert {block.language for block in _BLOCKS} <= set(LANGUAGES), [
        block.place for block in _BLOCKS if block.language not in LANGUAGES
    ]


def test_every_line_with_a_prompt_is_an_example() -> None:
    """None hides in a block of another language, or outside of one."""
    prompts = sum(
        line.startswith("$ ") for path in markdown_files() for line in path.read_text(encoding="utf-8").splitlines()
    )

    assert prompts == sum(len(block.commands) for block in _TYPED)
    assert sum(len(block.commands) for block in _RUN) >= 30


def test_the_judge_sees_a_difference() -> None:
    """Numbers may be others; words, missing and additional lines may not."""
    shown = ("copied 34 tables, 1,001,422 rows in 6.2 s", "  next  one")
    assert fits(shown, ["copied 5 tables, 12 rows in 1 min 3 s", "  next     one"])
    assert fits(("a", "…", "z"), ["a", "b", "c", "z"])
    assert fits(("a", "…"), ["a", "b"])
    for printed in (
        ["copied 5 views, 12 rows in 3.0 s", "  next  one"],
        ["copied 5 tables, 12 rows in 3.0 s"],
        ["copied 5 tables, 12 rows in 3.0 s", "  next  one", "more"],
        [],
    ):
        assert not fits(shown, printed)


def test_a_wrong_exit_code_and_a_background_job_are_seen(dsync: Dsync) -> None:
    """By the shell that the examples are typed into."""
    with Shell(environ=dsync.environ, directory=dsync.directory) as shell:
        assert shell.type(Command(text="(exit 7)", shown=())) == (7, [])
        assert shell.type(Command(text="printf 'a\\nb'", shown=())) == (0, ["a", "b"])
        assert shell.type(Command(text="echo", shown=())) == (0, [""])
        assert shell.type(Command(text="export A=x; (sleep 0.1; echo $A; exec sleep 60) &", shown=("x",))) == (0, ["x"])
        assert shell.type(Command(text="echo $A; kill %1", shown=())) == (0, ["x"])
    assert Command(text="false  # exit code 1", shown=()).exit_code == 1


_DATA = [block for block in _BLOCKS if block.language in ("toml", "yaml", "json")]


@pytest.mark.parametrize("block", _DATA, ids=lambda block: block.place)
def test_data_can_be_read(block: Block) -> None:
    """A flow file fits its schema."""
    if block.language == "toml":
        assert tomllib.loads(block.text)
    else:
        content = yaml.safe_load(block.text)
        assert block.language != "yaml" or list(problems(content, flow_schema())) == []


@pytest.mark.parametrize(
    "block", [block for block in _BLOCKS if block.language == "sql"], ids=lambda block: block.place
)
def test_statements_are_understood(block: Block, source_db: DatabaseFactory) -> None:
    """Carried out on a server, and taken back: a role would be there for all of its databases."""
    with psycopg.connect(source_db().uri) as connection:
        connection.execute(block.text.encode())
        connection.rollback()


async def test_the_connector_of_the_manual_gives_its_numbers() -> None:
    """Its class can be pasted: a plan of what is asked for, and a page."""
    (block,) = [block for block in _BLOCKS if block.language == "python" and block.path.name == "connectors.md"]
    made: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), made)
    connector = made["Numbers"]()
    plan = await connector.generate_plan(types.PlanRequest(namespaces=("numbers",)))
    (partition,) = plan.partitions
    page = await connector.list_data(types.ReadRequest(partition=partition, type=types.PageType.BSON))

    assert (await asyncio.gather(connector.get_info()))[0].source is not None
    assert page.rows == len(page.records) == 1000
