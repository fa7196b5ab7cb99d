"""What the author of a connector or a transform imports."""

from dsync.failpoints import failpoint
from dsync.protocol import errors, namespaces, types
from dsync.protocol.interface import Connector, Transform
from dsync.sdk.plugin import ConnectorSpec, PluginContext

__all__ = [
    "Connector",
    "ConnectorSpec",
    "PluginContext",
    "Transform",
    "errors",
    "failpoint",
    "namespaces",
    "types",
]
