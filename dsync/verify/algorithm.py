"""Which hash both ends compute where the data is."""

from __future__ import annotations

from collections.abc import Mapping

from dsync.protocol.errors import UnsupportedError

PORTABLE = ""
"""The algorithm that every endpoint of a dialect has."""

# The fastest of a dialect, which an endpoint refuses where it would not hash as others do.
_FASTEST: Mapping[str, str] = {"postgres": "hashtextextended"}


class Algorithm:
    """The fastest algorithm that neither end has refused; one for all namespaces of a verification."""

    def __init__(self, dialect: str) -> None:
        self.name = _FASTEST.get(dialect, PORTABLE)
        """As checksum requests carry it."""

    def fall_back(self, used: str, refusal: UnsupportedError) -> None:
        """An end has refused `used`: go on with what every end has.

        Raises:
            UnsupportedError: that was it already.
        """
        if used == PORTABLE:
            raise refusal
        self.name = PORTABLE
