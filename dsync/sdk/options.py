"""Typed options of a connector: one class, parsed at the edge, whose repr hides secrets.

Options are query parameters on the URI, or keys of an endpoint in the flow file. A secret option may be
`env:NAME` or `file:PATH`; it is resolved in the plug-in's process and nowhere else.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of a connector's options; every field carries a `description`, which `connectors show` prints.

    Secrets are `pydantic.SecretStr`. An unknown name is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
