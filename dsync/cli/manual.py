"""What the manual says of each command beyond its help: exit codes, examples, files, environment.

Data alone, read by `dsync.cli.reference`; every example is run by a test, with `a.example` and `b.example` replaced by
servers of the test's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "our fault: a bug; with -v there is a traceback to report",
    2: "the request is wrong: an option, a name, a flow file; nothing was changed",
    3: "the environment is: a server is down, a privilege or a tool is missing, a disk is full",
    4: "differences were found, or a connector has failed a check",
    5: "done, but the sink refused records: they are dead letters",
    6: "done, but inconsistent or incomplete: a table stopped or changed, and is named",
    130: "interrupted by Ctrl-C; the same command goes on",
    143: "ended by SIGTERM, and the same command goes on; or by `dsync cancel`, and `dsync resume` does",
}
"""Where several would fit, the worst wins: 1, 3, 2, 6, 4, 5."""

_ANY = (0, 1, 2, 3)
_INTERRUPTIBLE = (*_ANY, 130, 143)

_SHARED_MEMORY = "/dev/shm/dsync-run-*"  # noqa: S108 - named here, and used elsewhere with care

FILES: Mapping[str, str] = {
    "~/.local/state/dsync/state.db": "the state: flows, runs, checkpoints, dead letters; below `$XDG_STATE_HOME` where"
    " that is set, elsewhere with `--state`; mode 0600",
    "$XDG_RUNTIME_DIR/dsync-run-*": "private directories (0700) with the sockets of plug-ins while a command runs;"
    " below the temporary directory where there is no runtime directory",
    _SHARED_MEMORY: "pages on their way between processes, counted in `--memory-limit`; removed at the end, those"
    " of a killed run by the next",
    "~/.pgpass": "passwords, as libpq reads them (`$PGPASSFILE`)",
    "FLOW.YAML": "a flow file (-c); docs/flow.schema.json describes its keys",
    "PATH of --log-file": "log lines as JSON, mode 0600; opened anew once it has been moved away",
}

ENVIRONMENT: Mapping[str, str] = {
    "PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLMODE, …": "everything that libpq knows, for `postgresql://`",
    "NAME": "whatever `env:NAME` in place of a URI or of a secret option names, or `${NAME}` in a flow file",
    "XDG_STATE_HOME": "where the state is kept, below `dsync/`",
    "XDG_RUNTIME_DIR, TMPDIR": "where private directories are made",
    "PATH": "where `pg_dump` is looked for, beside the one of the extra `postgres-tools`",
    "_DSYNC_COMPLETE": "set by completion scripts",
}

_SOURCE = "postgresql://a.example/shop"
_SINK = "postgresql://b.example/shop"
_NIGHTLY = f"dsync sync {_SOURCE} {_SINK} --mode copy --flow nightly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Lines that are typed one after the other, and why."""

    what: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One command in the manual."""

    exit_codes: tuple[int, ...] = _ANY
    examples: tuple[Example, ...]
    files: tuple[str, ...] = ("~/.local/state/dsync/state.db",)
    environment: tuple[str, ...] = ("NAME", "XDG_STATE_HOME")


_PLUGINS = ("$XDG_RUNTIME_DIR/dsync-run-*", "~/.pgpass")
_ENDPOINTS = ("PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLMODE, …", "NAME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR, TMPDIR")

ENTRIES: Mapping[str, Entry] = {
    "sync": Entry(
        exit_codes=(0, 1, 2, 3, 4, 5, 6, 130, 143),
        examples=(
            Example(
                what="Copy a database and prove it. The same line goes on where it was cut off.",
                lines=(f"dsync sync {_SOURCE} {_SINK} --mode copy --verify",),
            ),
            Example(
                what="Copy one schema under a name, and later what may have changed since.",
                lines=(f"{_NIGHTLY} -n 'shop.*'", f"{_NIGHTLY} -n 'shop.*' --again"),
            ),
            Example(
                what="Take everything from a flow file.",
                lines=(
                    f"export SOURCE={_SOURCE} SINK={_SINK}",
                    r"printf 'source: env:SOURCE\nsink: env:SINK\nmode: copy\n' > flow.yaml",
                    "dsync sync -c flow.yaml",
                ),
            ),
            Example(
                what="For programs: one object as the result, one object a line for progress, and a log.",
                lines=(
                    f"dsync sync {_SOURCE} {_SINK} --mode copy --json --progress json --log-file sync.log"
                    " > result.json 2> progress.jsonl",
                ),
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS, _SHARED_MEMORY, "FLOW.YAML", "PATH of --log-file"),
        environment=(*_ENDPOINTS, "PATH"),
    ),
    "plan": Entry(
        exit_codes=_INTERRUPTIBLE,
        examples=(
            Example(what="See what a copy would do.", lines=(f"dsync plan {_SOURCE} {_SINK} --mode copy",)),
            Example(
                what="See every statement that would create something.", lines=(f"dsync plan {_SOURCE} {_SINK} --ddl",)
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS, "FLOW.YAML"),
        environment=(*_ENDPOINTS, "PATH"),
    ),
    "doctor": Entry(
        exit_codes=_INTERRUPTIBLE,
        examples=(
            Example(what="Look at a source alone.", lines=(f"dsync doctor {_SOURCE}",)),
            Example(
                what="Look at both ends, for the tables that are to be copied.",
                lines=(f"dsync doctor {_SOURCE} {_SINK} -n 'shop.*'",),
            ),
        ),
        files=(*_PLUGINS, "FLOW.YAML"),
        environment=(*_ENDPOINTS, "PATH"),
    ),
    "verify": Entry(
        exit_codes=(0, 1, 2, 3, 4, 130, 143),
        examples=(
            Example(
                what="Compare both ends of a flow, then the numbers of rows alone.",
                lines=(_NIGHTLY, "dsync verify nightly", "dsync verify nightly --quick"),
            ),
            Example(
                what="Compare any two databases; here the second one is empty.",
                lines=(f"dsync verify {_SOURCE} {_SINK}  # exit code 4",),
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS, "FLOW.YAML"),
        environment=_ENDPOINTS,
    ),
    "flows": Entry(examples=(Example(what="List what has been run.", lines=(_NIGHTLY, "dsync flows")),)),
    "status": Entry(
        examples=(Example(what="See one flow in full.", lines=(_NIGHTLY, "dsync status nightly")),),
    ),
    "pause": Entry(
        exit_codes=(*_ANY, 130, 143),
        examples=(
            Example(
                what="Let a flow rest while the source is busy, and go on later.",
                lines=(_NIGHTLY, "dsync pause nightly", "dsync resume nightly"),
            ),
        ),
    ),
    "resume": Entry(
        exit_codes=(0, 1, 2, 3, 5, 6, 130, 143),
        examples=(
            Example(
                what="Go on with a flow from its stored specification; passwords come from where references point.",
                lines=(_NIGHTLY, "dsync resume nightly"),
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS, _SHARED_MEMORY),
        environment=_ENDPOINTS,
    ),
    "cancel": Entry(
        exit_codes=(*_ANY, 130, 143),
        examples=(Example(what="End a run from another terminal.", lines=(_NIGHTLY, "dsync cancel nightly")),),
    ),
    "resync": Entry(
        exit_codes=(*_ANY, 130, 143),
        examples=(
            Example(
                what="Copy a table of a flow that follows anew; what was only copied is read again by --again.",
                lines=(_NIGHTLY, "dsync resync nightly --table public.orders  # exit code 2"),
            ),
        ),
    ),
    "rate": Entry(
        exit_codes=(*_ANY, 130, 143),
        examples=(
            Example(
                what="Spare the source from now on; nothing runs here any more, so this is refused.",
                lines=(_NIGHTLY, "dsync rate nightly 5000/s 20MiB/s  # exit code 2"),
            ),
        ),
    ),
    "cutover": Entry(
        exit_codes=(*_ANY, 4, 5, 6, 130, 143),
        examples=(
            Example(
                what="Bring a flow to its end and prove it: only exit code 0 says that it is safe to switch.",
                lines=(
                    f"dsync sync {_SOURCE} {_SINK} -n shop.orders --until-caught-up --flow move",
                    "dsync cutover move --freeze --yes",
                ),
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS),
        environment=_ENDPOINTS,
    ),
    "dead-letters list": Entry(
        examples=(Example(what="See what the sink has refused.", lines=(_NIGHTLY, "dsync dead-letters list nightly")),),
    ),
    "dead-letters show": Entry(
        examples=(
            Example(
                what="See what refused records hold. It may be secret.",
                lines=(_NIGHTLY, "dsync dead-letters show nightly --show-values"),
            ),
        ),
    ),
    "dead-letters retry": Entry(
        exit_codes=(*_ANY, 5, 130, 143),
        examples=(
            Example(
                what="Write them again, once what was wrong at the sink is mended.",
                lines=(_NIGHTLY, "dsync dead-letters retry nightly", "dsync dead-letters retry nightly -n shop.orders"),
            ),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS),
        environment=_ENDPOINTS,
    ),
    "dead-letters drop": Entry(
        examples=(
            Example(
                what="Go without those of one table.",
                lines=(_NIGHTLY, "dsync dead-letters drop nightly -n shop.log --yes"),
            ),
        ),
    ),
    "reset": Entry(
        exit_codes=_INTERRUPTIBLE,
        examples=(
            Example(what="Forget a flow; its rows stay at the sink.", lines=(_NIGHTLY, "dsync reset nightly --yes")),
        ),
        files=("~/.local/state/dsync/state.db", *_PLUGINS),
        environment=_ENDPOINTS,
    ),
    "serve": Entry(
        examples=(
            Example(
                what="Run a connector here, and read from it elsewhere.",
                lines=(
                    "dsync serve 'random://?documents=100' --listen 127.0.0.1:7000 &",
                    "serving random at grpc://127.0.0.1:7000",
                    "dsync sync grpc://127.0.0.1:7000 null:// --mode copy",
                    "kill %1",
                ),
            ),
        ),
        files=_PLUGINS,
        environment=_ENDPOINTS,
    ),
    "connectors list": Entry(
        exit_codes=(0, 1, 2),
        examples=(Example(what="See which connectors there are.", lines=("dsync connectors list",)),),
        files=(),
        environment=(),
    ),
    "connectors show": Entry(
        exit_codes=_ANY,
        examples=(
            Example(what="See the options of a connector.", lines=("dsync connectors show postgres",)),
            Example(what="The same by a scheme.", lines=("dsync connectors show random://",)),
        ),
        files=(),
        environment=(),
    ),
    "conformance": Entry(
        exit_codes=(*_ANY, 4, 130, 143),
        examples=(
            Example(
                what="Examine a connector of this installation, without a sink to write to.",
                lines=("dsync conformance 'random://?documents=500&changes=500'",),
            ),
            Example(
                what="Examine one that somebody runs, in whatever language.",
                lines=(
                    "dsync serve 'random://?documents=100' --listen 127.0.0.1:7001 &",
                    "serving random at grpc://127.0.0.1:7001",
                    "dsync conformance 127.0.0.1:7001 --only pages --json",
                    "kill %1",
                ),
            ),
        ),
        files=_PLUGINS,
        environment=("PGPASSWORD, PGPASSFILE, PGSERVICE, PGSSLMODE, …", "NAME", "XDG_RUNTIME_DIR, TMPDIR"),
    ),
    "quickstart": Entry(
        exit_codes=(*_ANY, 4, 5, 6, 130, 143),
        examples=(Example(what="See a small shop copied and verified.", lines=("dsync quickstart --rows 2000",)),),
        files=("$XDG_RUNTIME_DIR/dsync-run-*",),
        environment=("XDG_RUNTIME_DIR, TMPDIR",),
    ),
    "flow-schema": Entry(
        exit_codes=(0, 1, 2),
        examples=(Example(what="Keep it where an editor finds it.", lines=("dsync flow-schema > flow.schema.json",)),),
        files=("FLOW.YAML",),
        environment=(),
    ),
    "completion": Entry(
        exit_codes=(0, 1, 2),
        examples=(Example(what="In bash.", lines=('eval "$(dsync completion bash)"',)),),
        environment=("_DSYNC_COMPLETE", "XDG_STATE_HOME"),
    ),
}
"""By the words of the command."""
