"""Connectors are found through entry points, and a broken one hinders nobody."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from dsync.plugins.registry import Registry, load_entry
from dsync.protocol.errors import MissingObjectError, RequestError
from dsync.protocol.interface import Connector
from dsync.sdk.options import Options
from dsync.sdk.plugin import ConnectorSpec


def spec(name: str, *, requires: tuple[str, ...] = (), install: str = "") -> ConnectorSpec:
    return ConnectorSpec(
        name=name,
        schemes=(name, f"{name}s"),
        summary="",
        options=lambda: Options,
        create=lambda uri, options, context: Connector(),
        requires=requires,
        install=install,
    )


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    module = ModuleType("some_connectors")
    monkeypatch.setattr(module, "GOOD", spec("good"), raising=False)
    monkeypatch.setattr(
        module,
        "LACKING",
        spec("lacking", requires=("json", "no.such", "nor_this"), install="pip install x[y]"),
        raising=False,
    )
    monkeypatch.setattr(module, "NONE", object(), raising=False)
    monkeypatch.setitem(sys.modules, "some_connectors", module)
    names = [("good", "GOOD"), ("lacking", "LACKING"), ("none", "NONE"), ("absent", "ABSENT")]
    entries = [load_entry(name, f"some_connectors:{attribute}") for name, attribute in names]
    return Registry([*entries, load_entry("gone", "no_such_module:SPEC")])


def test_a_scheme_leads_to_its_connector(registry: Registry) -> None:
    """Each connector may have several."""
    assert registry.for_scheme("good").name == registry.for_scheme("goods").name == "good"
    assert registry.for_scheme("good").reference == "some_connectors:GOOD"


def test_an_unknown_scheme_is_answered_with_the_known_ones(registry: Registry) -> None:
    """Those of others' connectors and the two by which a running one is reached."""
    assert registry.schemes == ("good", "goods", "lacking", "lackings", "grpc", "grpcs")
    with pytest.raises(RequestError, match=r"no connector for mongodbb://; known are good://, .*grpcs://") as caught:
        registry.for_scheme("mongodbb")
    assert caught.value.exit_code == 2


def test_a_connector_whose_extra_is_missing_says_how_to_get_it(registry: Registry) -> None:
    """It is listed with its install line, and refused with it when used."""
    entry = registry.named("lacking")
    assert not entry.is_usable
    assert entry.hint == "needs no.such, nor_this: pip install x[y]"
    with pytest.raises(MissingObjectError, match=r"pip install x\[y\]"):
        registry.for_scheme("lacking")


@pytest.mark.parametrize(
    ("name", "problem"),
    [("none", "is not a ConnectorSpec"), ("absent", "AttributeError"), ("gone", "ModuleNotFoundError")],
)
def test_a_broken_entry_is_listed_with_its_reason(registry: Registry, name: str, problem: str) -> None:
    """Someone else's mistake must not take the other connectors along."""
    entry = registry.named(name)
    assert problem in entry.hint
    assert entry.schemes == ()
    with pytest.raises(MissingObjectError, match=problem):
        registry.options_of(name)


def test_an_unknown_name_is_answered_with_the_known_ones(registry: Registry) -> None:
    """`connectors show` of something that is not installed."""
    with pytest.raises(RequestError, match="installed are absent, gone, good, lacking, none"):
        registry.named("mysql")


def test_our_own_connectors_are_installed() -> None:
    """Through the same door as everyone's."""
    entry = Registry.installed().for_scheme("postgresql")
    assert (entry.name, entry.is_usable, entry.hint) == ("postgres", True, "")
    names = [option.name for option in Registry.installed().options_of("postgres")]
    assert "password" in names
