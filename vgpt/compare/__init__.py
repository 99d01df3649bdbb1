"""From the records of runs to a comparison: selecting, grouping, auditing, statistics.

The room can be called: `vgpt.compare("mha", "gqa")`.
"""

from vgpt.package import call_as

call_as(__name__, "vgpt.api.comparing")
