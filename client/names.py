"""What sites and runs may be called: names travel, and become folders at both ends."""

import re

SITE_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
RUN_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
