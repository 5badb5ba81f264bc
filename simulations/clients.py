"""The ClientApp of simulated sites: the real one, which finds its site by its number."""

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp

from client.app import make_client_app
from client.limits import SiteLimits
from client.site import SiteSettings
from simulations.scenarios.attacks import HostileClientApp


def make_app(sites: list[dict[str, Any]]) -> ClientApp:
    """The app of all sites of a simulation.

    Args:
        sites: the settings of every site as plain values, in the order of Flower's `partition-id`, and how it attacks
            the others ("attack"), null for an honest one.
    """
    settings = [_site(values) for values in sites]

    attacks = {number: values["attack"] for number, values in enumerate(sites) if values["attack"] is not None}

    def find_site(context: Context) -> SiteSettings:
        return settings[int(context.node_config["partition-id"])]

    app = make_client_app(find_site)
    return HostileClientApp(app, attacks) if attacks else app


def _site(values: dict[str, Any]) -> SiteSettings:
    paths = {name: Path(values[name]) for name in ("data", "work")}
    limits = SiteLimits() if values["delta"] is None else SiteLimits(delta=values["delta"])
    own = {name: value for name, value in values.items() if name not in ("delta", "attack")}
    return SiteSettings(**{**own, **paths}, limits=limits)
