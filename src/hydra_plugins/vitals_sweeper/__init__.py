"""What Hydra finds of ours: it looks for plugins in the namespace `hydra_plugins`, and nowhere else.

Imported at every start of a command, so it imports as little as it can.
"""

from vitals.runs.config import resolvers as resolvers
