"""What an engine is told of tiny sites."""

from collections.abc import Sequence

from client.site import SiteSettings
from simulations.engines import ClientSource


def tiny_source(sites: Sequence[SiteSettings], attack: str | None = None) -> ClientSource:
    """The sites' client apps, on one core each; with an attack the last site is hostile."""
    told = [
        {"name": site.name, "data": str(site.data), "work": str(site.work), "device": "cpu", "threads": 1}
        | {"delta": None, "attack": attack if site is sites[-1] else None}
        for site in sites
    ]
    return ClientSource.of("simulations.clients:make_app", sites=told)
