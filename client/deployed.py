"""The ClientApp of a real site. It finds its site file by SEGFED_SITE, and no message can change that."""

import os
from functools import cache
from pathlib import Path

from flwr.app import Context

from client.app import make_client_app
from client.site import SiteSettings
from client.site_file import SITE, SiteFile, read_site_file


@cache
def own_site() -> SiteFile:
    """The site file of this process.

    Raises:
        ConfigurationError: it cannot be read.
    """
    return read_site_file(Path(os.environ[SITE]))


def _find_site(_: Context) -> SiteSettings:
    return own_site().site


app = make_client_app(_find_site, keep_replies=True)
