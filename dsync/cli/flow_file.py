"""A flow file: the options of a command in YAML, under the names of their flags."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dsync.cli.quantities import parse_rate, parse_time
from dsync.cli.settings import Settings
from dsync.cli.sizes import KIB, MIB, parse_size
from dsync.coordinator.tolerance import Tolerance
from dsync.protocol.errors import RequestError
from dsync.sdk.references import is_reference

_REFUSALS = "write a number, NS=N, a list of such, or a mapping of namespaces to numbers"
_VARIABLE = re.compile(r"\$(?P<escaped>\$)?\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def _as_size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_rates(value: Any) -> Any:
    """One limit or several; a bare number is a number of rows."""
    texts = [str(item) if isinstance(item, int) else item for item in (value if isinstance(value, list) else [value])]
    for text in texts:
        parse_rate(text)
    return texts


def _as_time(value: Any) -> Any:
    return parse_time(value) if isinstance(value, str) else value


def _as_refusals(value: Any) -> Any:
    """`100`, `shop.orders=0`, a list of such, or `{shop.orders: 0}`, as the texts that the flag takes."""
    items = [f"{name}={number}" for name, number in value.items()] if isinstance(value, dict) else value
    texts = [str(item) for item in items] if isinstance(items, list) else [str(items)]
    try:
        Tolerance.parse(texts)
    except RequestError as exc:
        raise ValueError(_REFUSALS) from exc
    return texts


def _as_endpoint(value: Any) -> Any:
    """`{uri: URI, option: value}` as the one URI that it means."""
    if not isinstance(value, dict):
        return value
    options = {str(name): option for name, option in value.items()}
    uri = options.pop("uri", None)
    if not isinstance(uri, str):
        raise ValueError("an endpoint is a URI, or a mapping with `uri` and the connector's options")
    if options and is_reference(uri):
        raise ValueError("options cannot be added to a reference: write them into the URI that it stands for")
    query = "&".join(f"{quote(name, safe='')}={quote(_option_text(it), safe=':')}" for name, it in options.items())
    return uri + (("&" if "?" in uri else "?") + query if query else "")


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(_option_text, value))
    return str(value)


Endpoint = Annotated[str, BeforeValidator(_as_endpoint)]
Size = Annotated[int, BeforeValidator(_as_size)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


class FlowFile(BaseModel):
    """Every key, all of them optional; a command takes those that are its own options."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    source: Annotated[Endpoint | None, Field(description="Where rows come from: a URI, env:NAME or file:PATH.")] = None
    sink: Annotated[Endpoint | None, Field(description="Where rows go.")] = None
    namespace: Annotated[
        Texts,
        Field(
            description="NS[:TO] patterns; none means everything.",
            validation_alias=AliasChoices("namespace", "namespaces"),
        ),
    ] = ()
    exclude: Annotated[Texts, Field(description="Patterns of what is left out.")] = ()
    filters: Annotated[
        Texts,
        Field(alias="filter", description="NS=SQL: only the rows that meet the condition, as in orders=total > 100."),
    ] = ()
    mode: Annotated[Literal["copy", "full", "stream"] | None, Field(description="What to do.")] = None
    again: Annotated[bool, Field(description="Start a new run over a finished one.")] = False
    flow: Annotated[str | None, Field(description="The flow's name.")] = None
    state: Annotated[
        str | None,
        Field(description="Where flows are remembered: a path, postgresql://HOST/DATABASE, env:NAME or file:PATH."),
    ] = None
    parallel: Annotated[int | None, Field(description="Partitions in flight.", ge=1, le=256)] = None
    page_bytes: Annotated[Size | None, Field(description="What a page weighs.", ge=64 * KIB, le=32 * MIB)] = None
    memory_limit: Annotated[Size | None, Field(description="Memory of all processes together.", ge=64 * MIB)] = None
    load_level: Annotated[
        Literal["low", "medium", "high"] | None, Field(description="How hard the source is worked.")
    ] = None
    rate_limit: Annotated[
        tuple[str, ...],
        BeforeValidator(_as_rates),
        Field(description="Rows or bytes that are read in a second at most, as in 5000/s or 20MiB/s."),
    ] = ()
    retry_for: Annotated[
        float | None, BeforeValidator(_as_time), Field(description="How long a server is waited for, as in 90s.", ge=0)
    ] = None
    slot_timeout: Annotated[
        float | None,
        BeforeValidator(_as_time),
        Field(description="How long open transactions may keep changes from being followed, as in 60s.", gt=0),
    ] = None
    spool_limit: Annotated[
        Size | None, Field(description="Changes on disk that wait to be applied, as in 16GiB.", ge=64 * MIB)
    ] = None
    apply: Annotated[
        Literal["lanes", "transactional"] | None,
        Field(description="How changes are written: many at a time, or each of the source's transactions whole."),
    ] = None
    ack: Annotated[
        Literal["applied", "spooled"] | None,
        Field(description="What the source may discard: what the sink has, or what is on this machine's disk."),
    ] = None
    until_caught_up: Annotated[bool, Field(description="End a stream once it has caught up.")] = False
    dead_letters: Annotated[
        tuple[str, ...],
        BeforeValidator(_as_refusals),
        Field(description="How many records the sink may refuse: N in all, NS=N or {NS: N} of each table."),
    ] = ()
    on_existing: Annotated[
        Literal["error", "resume", "append", "truncate", "drop"] | None,
        Field(description="What to do with tables that have rows."),
    ] = None
    schema_mode: Annotated[
        Literal["copy", "none"] | None, Field(alias="schema", description="Whether tables are created.")
    ] = None
    attach: Annotated[Literal["process", "inline"] | None, Field(description="How connectors run.")] = None
    no_owner: Annotated[bool, Field(description="Leave owners out.")] = False
    no_privileges: Annotated[bool, Field(description="Leave grants out.")] = False
    allow_plaintext: Annotated[bool, Field(description="grpc:// to other machines.")] = False
    allow_lossy: Annotated[bool, Field(description="Types that lose something.")] = False
    data_type: Annotated[
        Literal["auto", "pg-copy-binary", "pg-copy-text", "bson", "json"] | None,
        Field(description="The form in which records travel."),
    ] = None
    verify: Annotated[bool, Field(description="Verify after the copy.")] = False
    progress: Annotated[
        Literal["auto", "bar", "plain", "json", "none"] | None, Field(description="How it is shown.")
    ] = None
    metrics: Annotated[
        str | None,
        BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
        Field(description="Where metrics for Prometheus are served: PORT or HOST:PORT."),
    ] = None
    quick: Annotated[bool, Field(description="verify: compare counts only.")] = False
    max_diffs: Annotated[int | None, Field(description="verify: differences listed per table.", ge=0)] = None
    show_values: Annotated[bool, Field(description="verify: show what differs.")] = False
    strict: Annotated[bool, Field(description="doctor: warnings count too.")] = False
    ddl: Annotated[bool, Field(description="plan: print all statements.")] = False
    log_format: Annotated[Literal["console", "json"] | None, Field(description="How log lines look.")] = None
    log_file: Annotated[str | None, Field(description="A file that log lines are added to, as JSON.")] = None
    verbose: Annotated[int, Field(description="0, or more for more log lines.", ge=0)] = 0
    quiet: Annotated[bool, Field(description="Warnings only.")] = False
    yes: Annotated[bool, Field(description="Answer every question with yes.")] = False
    json_output: Annotated[bool, Field(alias="json", description="Print one JSON object.")] = False

    @property
    def given(self) -> frozenset[str]:
        """Which fields the file sets."""
        return frozenset(self.model_fields_set)

    def fill_settings(self, settings: Settings) -> None:
        """Take over what stands everywhere, unless the command line says it."""
        for field, name in (
            ("log_format", "log_format"),
            ("log_file", "log_file"),
            ("verbose", "verbosity"),
            ("quiet", "is_quiet"),
            ("yes", "yes"),
            ("json_output", "json"),
        ):
            if field in self.given and name not in settings.given:
                setattr(settings, name, getattr(self, field))


def load_flow_file(path: str, environ: Mapping[str, str] = os.environ) -> FlowFile:
    """Read a flow file and check every key of it.

    Raises:
        RequestError: it cannot be read, is no YAML, names an unknown key or variable, or has a wrong value. The
            message never repeats a value, which may be a password.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as exc:
        raise RequestError(f"flow file {path}: cannot be read ({exc.strerror})") from exc
    except UnicodeDecodeError:
        raise RequestError(f"flow file {path}: it is not UTF-8 text") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as exc:
        # Its own text quotes the line, in which a password may stand.
        line = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise RequestError(f"flow file {path}{line}: not YAML: {exc.problem}") from None
    except yaml.YAMLError:
        raise RequestError(f"flow file {path}: not YAML: a character is not allowed in it") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RequestError(f"flow file {path}: it must be a mapping of options, as in `mode: copy`")
    try:
        return FlowFile.model_validate(_substituted(content, path, "", environ))
    except ValidationError as exc:
        raise RequestError(f"flow file {path}: {_complaints(exc)}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _substituted(value: Any, path: str, key: str, environ: Mapping[str, str]) -> Any:
    """`${NAME}` and `${NAME:-default}` replaced in every text; `$${` stands for `${`.

    After parsing, so that a variable's content cannot add keys.
    """
    if isinstance(value, dict):
        return {name: _substituted(item, path, str(name), environ) for name, item in value.items()}
    if isinstance(value, list):
        return [_substituted(item, path, key, environ) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match[0][1:]
        name, default = match["name"], match["default"]
        # As in a shell, `:-` also stands in for a variable that is empty.
        found = environ.get(name) or default if default is not None else environ.get(name)
        if found is None:
            raise RequestError(
                f"flow file {path}: {key}: the environment variable {name} is not set; export it, or write"
                f" ${{{name}:-default}}"
            )
        return found

    return _VARIABLE.sub(replaced, value)


def _keys() -> list[str]:
    return sorted(field.alias or name for name, field in FlowFile.model_fields.items())


def _complaints(error: ValidationError) -> str:
    said = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        key = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key.replace("_", "-"), _keys(), n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_keys())}"
            said.append(f"there is no option {key!r}; {advice}")
        else:
            said.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(dict.fromkeys(said))
