"""The house's rules that a program can check: imports point one way, public names exist, nothing is unpickled."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import segformer3d

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["segformer3d", "client", "server", "simulations", "segfed"]
SOURCES = sorted(path for name in ORDER for path in [*(ROOT / name).rglob("*.py"), *ROOT.glob(f"{name}.py")])


@cache
def imported(path: Path) -> tuple[str, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield str(node.module)


def test_imports_point_one_way():
    assert [told for path in SOURCES for told in _wrong_imports(path)] == []


def _wrong_imports(path: Path) -> Iterator[str]:
    place = path.relative_to(ROOT)
    own = ORDER.index(place.parts[0].removesuffix(".py"))
    barred = {*ORDER[own + 1 :], "pickle", "cloudpickle", "dill", "shelve", *(("flwr", "opacus") if own == 0 else ())}
    for name in imported(path):
        if name.split(".")[0] in barred:
            yield f"{place} imports {name}"


def test_the_server_takes_nothing_from_the_client_but_the_contract():
    """The contract with what it is made of: how weights are encoded, what failures say, the bundle, and no network."""
    contract = {
        "client.contract",
        "client.weights",
        "client.failures",
        "client.offline",
        "client.bundle",
        "client.names",
        "client.records",
        "client.strategies.rule",
        "client.exchange.settings",
        "client.exchange.parcel",
        "client.exchange.variates",
        "client.privacy.settings",
        "client.privacy.promise",
        "client.privacy.release",
    }
    for path in (ROOT / "server").rglob("*.py"):
        taken = {name for name in imported(path) if name.startswith("client")}
        assert taken <= contract, f"{path} imports {taken - contract}"


def test_public_names_exist_and_are_all():
    assert sorted(segformer3d.__all__) == segformer3d.__all__
    for name in segformer3d.__all__:
        assert getattr(segformer3d, name).__module__.startswith("segformer3d.")
    with pytest.raises(AttributeError, match="no_such_name"):
        segformer3d.no_such_name  # noqa: B018


def test_modules_are_read_in_one_sitting():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > 350} == {}


def test_every_dependency_is_imported_somewhere():
    names = {name.split(".")[0] for path in SOURCES for name in imported(path)}
    third_party = names - set(sys.stdlib_module_names) - set(ORDER)
    assert {"flwr", "torch", "monai", "nibabel", "rich", "safetensors", "numpy", "scipy", "matplotlib"} <= third_party
