"""What a mixer can do: small models of each variant trained on tasks, with equal effort, and the card of what came.

The room can be called: `vgpt.probe("mha", "linear")`.
"""

from vgpt.package import call_as

call_as(__name__, "vgpt.api.probing")
