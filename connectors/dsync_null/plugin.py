"""How dsync finds the null sink; cheap to import, since listing connectors imports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from dsync.sdk import Connector, ConnectorSpec, PluginContext

if TYPE_CHECKING:
    from dsync.sdk.options import Options


def _options() -> type[Options]:
    from dsync_null.options import NullOptions

    return NullOptions


def _create(uri: str, options: Options, context: PluginContext) -> Connector:
    from dsync_null.connector import make
    from dsync_null.options import NullOptions, sink_name

    return make(sink_name(uri), cast(NullOptions, options))


SPEC = ConnectorSpec(
    name="null",
    schemes=("null",),
    summary="A sink that counts rows and bytes and keeps none of them: for tests and benchmarks.",
    options=_options,
    create=_create,
    is_source=False,
)
