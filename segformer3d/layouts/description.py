"""`dataset.json`, as the Medical Segmentation Decathlon and nnU-Net write it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer3d.errors import DataError

DESCRIPTION = "dataset.json"


def read_description(path: Path) -> dict[str, Any]:
    """A `dataset.json` as a mapping.

    Raises:
        DataError: it is not readable JSON with an object on top.
    """
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); repair or export it again") from error
    if not isinstance(described, dict):
        raise DataError(f"{path} must hold a JSON object, as the Medical Segmentation Decathlon writes it")
    return described


def channel_names(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The contrasts by their number: `modality` of the Decathlon, or `channel_names` of nnU-Net.

    Raises:
        KeyError: it has neither.
        TypeError, ValueError, AttributeError: they are not listed by number.
    """
    channels = described.get("modality") or described["channel_names"]
    return tuple(str(channels[key]) for key in sorted(channels, key=int))


def known_channels(described: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """`channel_names` of images in `count` files, or nothing where the file does not name as many."""
    try:
        names = channel_names(described)
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return names if len(names) == count else ()
