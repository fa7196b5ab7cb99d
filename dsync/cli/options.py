"""Options that several commands share, each with its sentence, and how they become a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dsync.cli.completing import complete_files, complete_flows
from dsync.cli.quantities import Rate, parse_rate, parse_time
from dsync.cli.settings import Settings
from dsync.cli.sizes import KIB, MIB, parse_size, size_text

if TYPE_CHECKING:
    from dsync.app.metrics import MetricsAddress
    from dsync.app.requests import SyncRequest

Function = TypeVar("Function", bound=Callable[..., Any])
Decorator = Callable[[Function], Function]


class RateLimit(click.ParamType[Rate]):
    """Rows or bytes a second: `5000/s`, `20MiB/s`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rate:
        if isinstance(value, Rate):
            return value
        try:
            return parse_rate(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Refusals(click.ParamType[str]):
    """A number of refused records, of the flow or of namespaces: `100`, `shop.orders=0`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from dsync.coordinator.tolerance import Tolerance
        from dsync.protocol.errors import RequestError

        try:
            Tolerance.parse([value])
        except RequestError as exc:
            self.fail(str(exc), param, ctx)
        return str(value)


class Duration(click.ParamType[float]):
    """A time: `90s`, `15m`, `1h30m`."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        try:
            return parse_time(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


class Size(click.ParamType[int]):
    """A number of bytes: `512MiB`, `4MB`, `65536`."""

    name = "size"

    def __init__(self, *, least: int, most: int | None = None) -> None:
        self.least = least
        self.most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            size = parse_size(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if size < self.least or (self.most is not None and size > self.most):
            upper = f" and at most {size_text(self.most)}" if self.most is not None else ""
            self.fail(f"{value} is out of range: at least {size_text(self.least)}{upper}", param, ctx)
        return size


def _stacked(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def state_option(default: str = "the XDG state directory") -> Callable[[Any], Any]:
    return click.option(
        "--state",
        metavar="URL",
        default="",
        shell_complete=complete_files,
        help="Where flows are remembered: a path (or sqlite:///PATH), or postgresql://HOST/DATABASE[?schema=NAME],"
        " which several machines can share; also env:NAME and file:PATH."
        f" [default: {default}]",
    )


def attach_options() -> Callable[[Any], Any]:
    return _stacked(
        click.option(
            "--attach",
            type=click.Choice(["process", "inline"]),
            default="process",
            show_default=True,
            help="Run connectors as processes of their own, or inside this one.",
        ),
        click.option(
            "--allow-plaintext",
            is_flag=True,
            help="Allow grpc:// without TLS to other machines, in a network you trust.",
        ),
    )


def ends_options() -> Callable[[Any], Any]:
    return _stacked(
        click.option(
            "-n",
            "--namespace",
            "namespace",
            metavar="NS[:TO]",
            multiple=True,
            help="Only this table or pattern (schema.table, *, ?, re:REGEX); TO is its name at the sink. Repeatable.",
        ),
        click.option(
            "--exclude",
            metavar="NS",
            multiple=True,
            help="Leave this table or pattern out, of all or of what -n names. Repeatable.",
        ),
        click.option(
            "--filter",
            "filters",
            metavar="NS=SQL",
            multiple=True,
            help='Only the rows of a table or pattern that meet a condition, as in "orders=total > 100". Repeatable.',
        ),
        attach_options(),
    )


def parallel_option() -> Callable[[Any], Any]:
    return click.option(
        "--parallel",
        type=click.IntRange(1, 256),
        help="How many pieces of tables are worked on at a time. [default: by the processors, 2 to 8]",
    )


def progress_option() -> Callable[[Any], Any]:
    return click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "plain", "json", "none"]),
        default="auto",
        show_default=True,
        help="How progress is shown on stderr: a table, log lines, one JSON object a line, or nothing; auto: a table"
        " on a terminal, else log lines.",
    )


def metrics_option() -> Callable[[Any], Any]:
    return click.option(
        "--metrics",
        metavar="ADDR",
        default="",
        help="Serve metrics for Prometheus at this HOST:PORT, or at PORT of this machine alone; 0 is a free one. Other"
        " machines can read them with --allow-plaintext only.",
    )


def metrics_address(text: str | None, *, allow_plaintext: bool) -> MetricsAddress | None:
    """Where `metrics_option` wants them; None: nowhere."""
    if not text:
        return None
    from dsync.app.metrics import MetricsAddress

    return MetricsAddress.parse(text, allow_plaintext=allow_plaintext)


def flow_options() -> Callable[[Any], Any]:
    """What makes a flow and how it is copied: `sync`, and `plan` and `doctor`, which say what it would do."""
    return _stacked(
        ends_options(),
        click.option(
            "--mode",
            type=click.Choice(["full", "copy", "stream"]),
            help="What to do: copy, then follow the source's changes (full, the default); copy once; or follow alone,"
            " into tables that hold the rows already (stream).",
        ),
        click.option(
            "--flow",
            metavar="NAME",
            default="",
            shell_complete=complete_flows,
            help="Name the flow; later the name alone finds it.",
        ),
        state_option(),
        parallel_option(),
        click.option(
            "--page-bytes",
            type=Size(least=64 * KIB, most=32 * MIB),
            metavar="SIZE",
            help="What a page of records should weigh, as in 2MiB. [default: 4MiB, less at a lower load level]",
        ),
        click.option(
            "--memory-limit",
            type=Size(least=64 * MIB),
            metavar="SIZE",
            help="Memory for all processes of the flow together. [default: 512MiB]",
        ),
        click.option(
            "--load-level",
            type=click.Choice(["low", "medium", "high"]),
            default="high",
            show_default=True,
            help="How hard the source is worked: low reads one piece at a time and rests as long as it reads. What "
            "--parallel and --page-bytes say wins.",
        ),
        click.option(
            "--rate-limit",
            type=RateLimit(),
            multiple=True,
            metavar="ROWS/S|SIZE/S",
            help="Read at most so much of the source, as in 5000/s or 20MiB/s. Once for rows and once for bytes.",
        ),
        click.option(
            "--retry-for",
            type=Duration(),
            metavar="TIME",
            help="How long a server that has gone away is waited for, as in 90s or 1h. [default: 15m]",
        ),
        click.option(
            "--slot-timeout",
            type=Duration(),
            metavar="TIME",
            help="How long transactions that are open at the source may keep its changes from being followed."
            " [default: 1m]",
        ),
        click.option(
            "--spool-limit",
            type=Size(least=64 * MIB),
            metavar="SIZE",
            help="Changes on this machine's disk that wait to be applied; beyond that the source keeps them."
            " [default: 16GiB]",
        ),
        click.option(
            "--ack",
            type=click.Choice(["applied", "spooled"]),
            help="What the source may discard: changes that the sink has (applied, the default), or those that are on"
            " this machine's disk (spooled), which then is the only place that has them.",
        ),
        click.option(
            "--apply",
            type=click.Choice(["lanes", "transactional"]),
            help="How changes are written: many at a time, each record's in their order (lanes, the default); or so"
            " that nobody ever sees a part of one of the source's transactions (transactional).",
        ),
        click.option(
            "--dead-letters",
            type=Refusals(),
            multiple=True,
            metavar="[NS=]N",
            help="How many records the sink may refuse: N in all, NS=N of each table that the pattern fits. A table"
            " that goes beyond stops, the others go on. Repeatable. [default: 1000 of each table]",
        ),
        click.option(
            "--on-existing",
            type=click.Choice(["error", "resume", "append", "truncate", "drop"]),
            help="What to do with tables at the sink that hold rows. [default: resume for the flow's own, else error]",
        ),
        click.option(
            "--schema",
            "schema_mode",
            type=click.Choice(["copy", "none"]),
            default="copy",
            show_default=True,
            help="Create tables and everything around them, or use those that exist.",
        ),
        click.option("--no-owner", is_flag=True, help="Leave owners out; what is made belongs to the sink's role."),
        click.option("--no-privileges", is_flag=True, help="Leave grants out."),
        click.option(
            "--allow-lossy",
            is_flag=True,
            help="Accept target columns that keep less than the source's, as in numeric(14,4) to (14,2).",
        ),
        click.option(
            "--data-type",
            type=click.Choice(["auto", "pg-copy-binary", "pg-copy-text", "bson", "json"]),
            default="auto",
            show_default=True,
            help="The form in which records travel; auto: the cheapest that both ends share.",
        ),
    )


def again_option() -> Callable[[Any], Any]:
    return click.option(
        "--again",
        is_flag=True,
        help="Start a new run over a finished one: read again what is not provably unchanged.",
    )


def require_ends(ctx: click.Context, source: str | None, sink: str | None) -> tuple[str, str]:
    """Both ends, from the command line or the flow file."""
    for name, value in (("SOURCE", source), ("SINK", sink)):
        if not value:
            raise click.UsageError(
                f"Missing argument '{name}': give it, or `{name.lower()}:` in a flow file (-c FLOW.YAML)", ctx
            )
    assert source is not None
    assert sink is not None
    return source, sink


def require_fitting_mode(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Refuse, before anything is contacted, what does not go together."""
    if options["mode"] == "stream" and options["on_existing"] not in (None, "append"):
        raise click.UsageError(
            f"--on-existing {options['on_existing']} is about tables that are copied into, and --mode stream copies "
            "nothing: leave one of them out",
            ctx,
        )


def sync_request(options: Mapping[str, Any], *, source: str, sink: str, verify: bool = False) -> SyncRequest:
    """The request behind `flow_options`; what was not given keeps the request's own default."""
    from dsync.app.requests import SyncRequest

    names = {name: name for name in ("parallel", "page_bytes", "memory_limit")} | {
        "retry_for": "retry_for_s",
        "slot_timeout": "slot_timeout_s",
        "spool_limit": "spool_limit",
        "apply": "apply",
        "ack": "ack",
    }
    optional = {field: options[name] for name, field in names.items() if options[name] is not None}
    # A flow file has checked its texts, and keeps them.
    rates = [parse_rate(rate) if isinstance(rate, str) else rate for rate in options["rate_limit"]]
    return SyncRequest(
        source=source,
        sink=sink,
        namespaces=tuple(options["namespace"]),
        exclude=tuple(options["exclude"]),
        filters=tuple(options["filters"]),
        attach=options["attach"],
        allow_plaintext=options["allow_plaintext"],
        again=options.get("again", False),
        flow=options["flow"] or "",
        state=options["state"] or "",
        load_level=options["load_level"],
        # Of several limits the narrowest holds.
        rate_rows_per_s=min((rate.rows_per_s for rate in rates if rate.rows_per_s), default=0),
        rate_bytes_per_s=min((rate.bytes_per_s for rate in rates if rate.bytes_per_s), default=0),
        on_existing=options["on_existing"],
        schema_mode=options["schema_mode"],
        no_owner=options["no_owner"],
        no_privileges=options["no_privileges"],
        allow_lossy=options["allow_lossy"],
        dead_letters=tuple(options["dead_letters"]),
        data_type=options["data_type"],
        mode=options["mode"] or "full",
        until_caught_up=options.get("until_caught_up", False),
        verify=verify,
        **optional,
    )


def confirm(settings: Settings, ctx: click.Context, question: str) -> None:
    """Go on only with a yes.

    Raises:
        click.UsageError: nobody can be asked, and --yes was not given.
        click.Abort: the answer was no.
    """
    if settings.yes:
        return
    if not settings.can_ask or settings.json:
        raise click.UsageError(f"{question} Nobody can be asked here: give --yes to go on", ctx)
    click.confirm(settings.shown(question) + " Go on?", abort=True, err=True)
