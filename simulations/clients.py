"""The ClientApp of simulated sites: the real one, which finds its site by its number."""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from client.app import make_client_app
from client.limits import SiteLimits
from client.site import SiteSettings


def make_app(sites: list[dict[str, Any]]) -> ClientApp:
    """The app of all sites of a simulation.

    Args:
        sites: the settings of every site as plain values, in the order of Flower's `partition-id`.
    """
    settings = [_site(values) for values in sites]

    def find_site(context: Context) -> SiteSettings:
        return settings[int(context.node_config["partition-id"])]

    return make_client_app(find_site)


def _site(values: dict[str, Any]) -> SiteSettings:
    paths = {name: Path(values[name]) for name in ("data", "work")}
    limits = SiteLimits() if values["delta"] is None else SiteLimits(delta=values["delta"])
    return SiteSettings(**{**{n: v for n, v in values.items() if n != "delta"}, **paths}, limits=limits)
