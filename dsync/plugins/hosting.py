"""Making a connector from its URI in the process that runs it: the child, `dsync serve`, or ours where inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsync.protocol.errors import OptionError
from dsync.protocol.interface import Connector
from dsync.sdk.plugin import ConnectorSpec, PluginContext
from dsync.sdk.redaction import secrets_of_uri
from dsync.sdk.references import resolve


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A connector, and what its process must not show."""

    connector: Connector
    secrets: frozenset[str] = field(repr=False)


def host_connector(
    spec: ConnectorSpec,
    reference: str,
    *,
    options: Mapping[str, str] | None = None,
    private_directory: Path,
    application_name: str = "dsync",
) -> Hosted:
    """Resolve the reference, take the options out of it and make the connector; no server is contacted.

    Raises:
        OptionError: a reference cannot be resolved, or leads to another connector's URI; an option is wrong.
    """
    # pydantic, which takes a tenth of a second to import: only a process that hosts a connector pays for it.
    from dsync.sdk.options import parse_options

    uri = resolve(reference, what=f"the {spec.name} endpoint")
    scheme = uri.partition(":")[0].lower()
    if scheme not in spec.schemes:
        # The scheme alone is shown: the rest may be a password in the wrong place.
        raise OptionError(f"the {spec.name} endpoint leads to something else than {' or '.join(spec.schemes)}://")
    clean_uri, parsed = parse_options(spec, uri, options)
    context = PluginContext(private_directory=private_directory, application_name=application_name)
    connector = spec.create(clean_uri, parsed, context)
    return Hosted(connector=connector, secrets=parsed.secrets() | secrets_of_uri(uri))
