"""`python -m segformer3d.tether PARENT COMMAND...`: become the command, and be ended when the parent dies.

A supervisor that is killed cannot end its programs; the system does it instead (prctl, Linux only).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died meanwhile
        sys.exit(0)
    os.execv(command[0], command)  # noqa: S606 - without a shell on purpose


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
