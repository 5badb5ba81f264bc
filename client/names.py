"""What both ends must agree on before they talk: the version of their messages, and what sites and runs are called."""

import re

CONTRACT_VERSION = 6  # of the messages, see `client.contract`
CONTRACT_HEADER = "segfed-contract"  # a site knows by it that it has found a gate, and of which version
# Names travel, and become folders at both ends.
SITE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
RUN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}|")  # SHA-256 of a model, or of none
