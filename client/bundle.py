"""What a coordinator submits to Flower in place of an app: one file of configuration, and not a line of code.

Flower sends every site an "app bundle" and would import whatever Python is in it. A bundle of segfed names two modules
that both ends have installed; nothing else is in it, not even the run's settings, so one version of segfed has exactly
one bundle. A site rebuilds it and compares: what is not equal to the last byte is refused.
"""

import hashlib
import io
import re
import zipfile
from importlib.metadata import version

from segformer3d.errors import SegfedError

SERVER_APP, CLIENT_APP = "server.deployed:app", "client.deployed:app"
RUN = "run"  # the one setting of a bundle: the name of the run at the coordinator
_DATE = (2024, 10, 1, 0, 0, 0)  # any, but always the same
_LARGEST = 64 * 1024  # bytes of a file that is looked into for a version
_VERSION = re.compile(r'^name = "segfed"\nversion = "([0-9A-Za-z.+-]{1,40})"$', re.MULTILINE)


class BundleError(SegfedError):
    """A coordinator has submitted something else than this version's bundle."""


def make_bundle() -> bytes:
    """The bundle of this version, the same bytes on every machine."""
    described = (
        f'[project]\nname = "segfed"\nversion = "{version("segfed")}"\n'
        'description = "A run of segfed. Configuration only: the code is what each site has installed."\n'
        'license = "Apache-2.0"\ndependencies = []\n\n'
        '[tool.flwr.app]\npublisher = "segfed"\n\n'
        f'[tool.flwr.app.components]\nserverapp = "{SERVER_APP}"\nclientapp = "{CLIENT_APP}"\n\n'
        f'[tool.flwr.app.config]\n{RUN} = ""\n'
    )
    content = described.encode()
    listed = f"pyproject.toml,{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as bundle:
        for name, text in (("pyproject.toml", content), (".info/CONTENT", listed.encode())):
            bundle.writestr(zipfile.ZipInfo(name, _DATE), text)
    return packed.getvalue()


def check_bundle(content: bytes) -> None:
    """Refuse whatever is not the bundle of this version. Nothing in it is run, imported or unpacked to disk.

    Raises:
        BundleError: it is another one; the text says which.
    """
    if hashlib.sha256(content).digest() == hashlib.sha256(make_bundle()).digest():
        return
    other = _version_of(content)
    own = version("segfed")
    if other is not None and other != own:
        raise BundleError(f"the coordinator runs segfed {other} and this site {own}; install the same at both ends")
    raise BundleError(
        "the coordinator has submitted an app with code or settings of its own; a site runs only what it has "
        "installed, so it was refused and nothing in it was run; ask the coordinator who submitted it"
    )


def _version_of(content: bytes) -> str | None:
    """The version that a bundle says it is of; None for what does not look like a bundle of segfed at all."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            if sorted(bundle.namelist()) != [".info/CONTENT", "pyproject.toml"]:
                return None
            with bundle.open("pyproject.toml") as file:
                found = _VERSION.search(file.read(_LARGEST).decode())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError):
        return None
    return found.group(1) if found else None
