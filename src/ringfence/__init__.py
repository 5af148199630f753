"""Ringfence: see every network conversation in a cluster, propose the policy that explains it, prove it.

This file imports nothing, so that a pod of the lab or an agent pays only for what it uses.
"""

__version__ = "0.1.0"
