"""Hiding secrets in URIs, texts and log events."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from dsync.sdk.references import is_reference

HIDDEN = "***"

# Shorter ones would blank half of every text and protect nothing.
_SHORTEST_SECRET = 3
_SECRET_NAME = re.compile(r"pass(?!file)|pwd|secret|token|credential|access_?key|private", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<rest>[^?#]*)")


def redact_uri(uri: str) -> str:
    """The URI as it may be shown and stored: without the password and without the values of secret parameters.

    What is malformed loses rather too much than too little: a password with an unescaped `/` or `@` is hidden whole.
    """
    base, mark, query = uri.partition("?")
    return (
        _redact_base(base) + mark + "&".join(map(_redact_parameter, query.split("&"))) if mark else _redact_base(base)
    )


def _redact_base(base: str) -> str:
    match = _AUTHORITY.match(base)
    if match is None or "@" not in match["rest"]:
        return base
    login, _, place = match["rest"].rpartition("@")
    user, colon, _ = login.partition(":")
    return match["scheme"] + (f"{user}:{HIDDEN}" if colon else user) + "@" + place


def _redact_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not value or not _SECRET_NAME.search(unquote(name)) or is_reference(unquote(value)):
        return parameter
    return name + equals + HIDDEN


def secrets_of_uri(uri: str) -> frozenset[str]:
    """The secrets that a URI holds in the clear, as written and decoded."""
    base, _, query = uri.partition("?")
    found: set[str] = set()
    match = _AUTHORITY.match(base)
    if match is not None and "@" in match["rest"]:
        found.add(match["rest"].rpartition("@")[0].partition(":")[2])
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if _SECRET_NAME.search(unquote(name)) and not is_reference(unquote(value)):
            found.add(value)
    return frozenset(text for secret in found for text in (secret, unquote(secret)) if text)


class Redactor:
    """Replaces known secrets in whatever is about to leave the process; a structlog processor too."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Hide these too, as they are and percent-encoded."""
        texts = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
        self._secrets |= {text for text in texts if len(text) >= _SHORTEST_SECRET}
        if self._secrets:
            # The longest first: one secret may begin with another.
            ordered = sorted(self._secrets, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, ordered)))

    def text(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {key: self._any(value) for key, value in event.items()}

    def _any(self, value: Any) -> Any:
        if self._pattern is None or value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self._any(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._any(item) for item in value]
        # An object's repr may hold a secret; its redacted text is all that a log needs.
        return self.text(str(value))
