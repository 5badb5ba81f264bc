"""The site's own log: what the operator reads, with paths, cases and tracebacks, and what never leaves the site."""

from contextlib import suppress
from datetime import datetime
from pathlib import Path

LOG_NAME = "site.log"


def write_log(work: Path, text: str) -> None:
    """Append an entry with the local time. A log that cannot be written (a full disk) stops nothing."""
    stamp = datetime.now().astimezone().isoformat(timespec="seconds")
    with suppress(OSError):
        work.mkdir(parents=True, exist_ok=True)
        with (work / LOG_NAME).open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {text}\n")
