"""Flower's SuperNode as a program that ends when it has given up: `python -m client.supernode OPTIONS`.

When a connection fails in a way that Flower does not try again (a certificate that has expired meanwhile, an
interception of TLS), its loop returns, but a thread of its own keeps the process alive, and the site would be silent
for ever. Here the process ends, and `segfed site join` starts another.
"""

import os
import sys

from flwr.supernode.cli import flower_supernode


def main() -> None:
    """Take part until SIGTERM, or until Flower gives up. It does not return."""
    status = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
