"""Settings files: TOML that a person wrote, read with an answer to what goes wrong."""

import tomllib
from pathlib import Path
from typing import Any

from segformer3d.errors import ConfigurationError


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The values of a TOML file.

    Args:
        path: of the file.
        remedy: what to do where it cannot be read: which file is meant, or what makes one.

    Raises:
        ConfigurationError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; {remedy}") from error
    except ValueError as error:  # UnicodeDecodeError, too
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
