"""What `import segformer3d` promises is there, and importing it waits for nothing."""

import subprocess
import sys

import pytest

import segformer3d


@pytest.mark.parametrize("name", segformer3d.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(segformer3d, name).__module__.startswith("segformer3d.")
    assert name in dir(segformer3d)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'segformer3d' has no attribute 'SegFormer2D'"):
        _ = segformer3d.SegFormer2D


def test_errors_are_imported_without_pytorch() -> None:
    code = "import segformer3d.errors, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
