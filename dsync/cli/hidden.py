"""Every secret that this process could show: of the command line, of the flow file, of what these refer to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

from dsync.cli.title import secrets_of

_REFERENCE = re.compile(r"(?:env|file):(?!//).+", re.DOTALL)
_INNER_REFERENCE = re.compile(r"[?&][^=&]*=((?:env|file)(?::|%3[Aa])(?!//)[^&]+)")


def known_secrets(values: Iterable[str], environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """What these endpoints hold or refer to. A reference that leads nowhere is the connector's to complain about."""
    texts = [text for value in values for text in _with_referenced(value)]
    found = set(secrets_of(texts))
    for text in texts:
        found |= {secret for inner in _INNER_REFERENCE.findall(text) for secret in _referenced(unquote(inner))}
    # libpq reads it without being told.
    found |= {environ.get("PGPASSWORD", "")} - set(_words(texts))
    return frozenset(secret for secret in found if secret)


def _with_referenced(value: str) -> Iterator[str]:
    yield value
    if _REFERENCE.fullmatch(value):
        yield from _referenced(value)


def _referenced(reference: str) -> Iterator[str]:
    from dsync.protocol.errors import OptionError
    from dsync.sdk.references import resolve

    try:
        yield resolve(reference, what="an endpoint")
    except OptionError:
        return


def _words(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from re.findall(r"\w+", text)
