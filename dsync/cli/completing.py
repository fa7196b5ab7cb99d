"""What the shell offers at the Tab key for flows, endpoints and connectors; commands and options are click's part.

Nothing here contacts a server, and whatever goes wrong is an empty offer: a key press prints no errors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Offer = list["CompletionItem[str]"]

SHELLS = ("bash", "zsh", "fish")
"""Those that `dsync completion` knows."""


def complete_flows(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Offer:
    """Names of flows, and the ids of those that have none, from the state that the line names."""
    from click.shell_completion import CompletionItem

    from dsync.state.names import flow_names

    known = flow_names(ctx.params.get("state") or "")
    # An id where there is a name would say the same twice, unless an id is what somebody has begun to type.
    words = [name or flow for flow, name in known] + [flow for flow, name in known if name and incomplete]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def complete_endpoints(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Offer:
    """Schemes of the connectors that are installed, `file:`, and the environment's variables behind `env:`."""
    from click.shell_completion import CompletionItem

    from dsync.app.connectors import list_connectors, remote_schemes

    if incomplete.startswith("env:"):
        words = [f"env:{name}" for name in sorted(os.environ)]
    else:
        own = [scheme for connector in list_connectors() for scheme in connector.schemes]
        words = [f"{scheme}://" for scheme in (*sorted(own), *remote_schemes())] + ["env:", "file:"]
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def complete_ends(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> Offer:
    """SOURCE SINK or one FLOW: flows only in the first place."""
    typed = ctx.params.get(parameter.name or "") or ()
    flows = [] if typed else complete_flows(ctx, parameter, incomplete)
    return flows + complete_endpoints(ctx, parameter, incomplete)


def complete_connectors(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Offer:
    """Connectors by name."""
    from click.shell_completion import CompletionItem

    from dsync.app.connectors import list_connectors

    return [CompletionItem(one.name, help=one.summary) for one in list_connectors() if one.name.startswith(incomplete)]


def complete_files(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> Offer:
    """Whatever the shell itself offers for a path."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
