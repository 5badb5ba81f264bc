"""`segfed site status`: whether this site takes part, and what it did last."""

import time
from pathlib import Path

from client.running import SUPERNODE, WORKER, read_running
from client.site_file import read_site_file
from client.site_log import LOG_NAME
from segformer3d.health import is_serving
from segformer3d.terminal import make_console, plain_duration

LINES = 8


def status_and_print(folder: str) -> None:
    """Print it.

    Raises:
        ConfigurationError: the site file cannot be read.
    """
    site, console = read_site_file(Path(folder)), make_console()
    work, running = site.site.work, read_running(site.site.work)
    if running is None:
        console.print(f"site {site.site.name} has not joined; segfed site join {folder}", soft_wrap=True)
    else:
        told = f"site {site.site.name} joined {site.coordinator} {plain_duration(time.time() - running.since)} ago"
        console.print(told, soft_wrap=True)
        for name, log in ((SUPERNODE, "connects"), (WORKER, "computes")):
            state = "runs" if is_serving(running.health, name) else f"is being started again; see {work / name}.log"
            console.print(f"  {name} ({log}): {state}", soft_wrap=True)
    log_file = work / LOG_NAME
    if log_file.exists():
        console.print(f"last entries of {log_file}:", soft_wrap=True)
        for line in log_file.read_text(encoding="utf-8").splitlines()[-LINES:]:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
