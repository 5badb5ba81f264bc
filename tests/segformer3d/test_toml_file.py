"""Settings files: what is in them, or one line that says what to do."""

from pathlib import Path

import pytest

from segformer3d.errors import ConfigurationError
from segformer3d.toml_file import read_toml


def test_values_come_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes('name = "Zürich"\n[limits]\nepsilon = 8.0\n'.encode())
    assert read_toml(path, "write one") == {"name": "Zürich", "limits": {"epsilon": 8.0}}


@pytest.mark.parametrize(("name", "reason"), [("no.toml", "No such file or directory"), ("", "Is a directory")])
def test_what_cannot_be_read_comes_with_the_remedy(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigurationError) as refused:
        read_toml(path, "make one with: segfed site init")
    assert str(refused.value) == f"cannot read {path}: {reason}; make one with: segfed site init"


@pytest.mark.parametrize("content", [b"rounds = ", b'name = "a"\nname = "b"', b'name = "\xff"', b"\x00"])
def test_what_is_no_toml_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not valid TOML") as refused:
        read_toml(path, "make one")
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)
