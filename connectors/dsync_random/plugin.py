"""How dsync finds the random source; cheap to import, since listing connectors imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dsync.sdk import Connector, ConnectorSpec, PluginContext

if TYPE_CHECKING:
    from dsync.sdk.options import Options


def _options() -> type[Options]:
    from dsync_random.options import RandomOptions

    return RandomOptions


def _create(uri: str, options: Options, context: PluginContext) -> Connector:
    from dsync_random.connector import RandomConnector
    from dsync_random.options import RandomOptions, source_name

    return RandomConnector(source_name(uri), cast(RandomOptions, options))


SPEC = ConnectorSpec(
    name="random",
    schemes=("random",),
    summary="A source of made-up documents and changes, repeatable by seed: for tests and benchmarks.",
    options=_options,
    create=_create,
    is_sink=False,
)
