"""What a coordinator may submit: exactly one bundle. Oracle: bundles made by Flower's own builder."""

import io
import tomllib
import zipfile

import pytest
from flwr.cli.build import build_fab_from_files
from hypothesis import given
from hypothesis import strategies as st

from client import bundle
from client.bundle import BundleError, check_bundle, make_bundle

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of flwr's builder
OWN = zipfile.ZipFile(io.BytesIO(make_bundle())).read("pyproject.toml")


def test_its_own_bundle_passes_and_is_always_the_same() -> None:
    check_bundle(make_bundle())
    assert make_bundle() == make_bundle()


def test_it_holds_configuration_only() -> None:
    assert sorted(zipfile.ZipFile(io.BytesIO(make_bundle())).namelist()) == [".info/CONTENT", "pyproject.toml"]


def test_flowers_builder_finds_nothing_to_add_or_to_leave_out() -> None:
    theirs = zipfile.ZipFile(io.BytesIO(build_fab_from_files({"pyproject.toml": OWN})[0]))
    assert sorted(theirs.namelist()) == [".info/CONTENT", "pyproject.toml"]
    assert tomllib.loads(theirs.read("pyproject.toml").decode()) == tomllib.loads(OWN.decode())


WITH_CODE = {
    "a module": {"pyproject.toml": OWN, "evil.py": b"import os"},
    "a module of ours": {"pyproject.toml": OWN, "client/deployed.py": b"import os"},
    "another component": {"pyproject.toml": OWN.replace(b"client.deployed:app", b"os:system")},
    "a dependency": {"pyproject.toml": OWN.replace(b"dependencies = []", b'dependencies = ["evil"]')},
    "a setting": {"pyproject.toml": OWN + b'shell = "rm -rf /"\n'},
    "a text": {"pyproject.toml": OWN, "README.md": b"hello"},
}


@pytest.mark.parametrize("files", WITH_CODE.values(), ids=WITH_CODE)
def test_any_other_bundle_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(BundleError, match="nothing in it was run"):
        check_bundle(build_fab_from_files(files)[0])


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = make_bundle()
    monkeypatch.setattr(bundle, "version", lambda name: "9.9.9")
    with pytest.raises(BundleError, match=r"runs segfed 0\.1\.0 and this site 9\.9\.9; install the same"):
        check_bundle(theirs)


@given(st.binary(max_size=300), st.integers(0, 700))
def test_garbage_is_refused(data: bytes, keep: int) -> None:
    with pytest.raises(BundleError):
        check_bundle(make_bundle()[:keep] + b"\0" + data)
