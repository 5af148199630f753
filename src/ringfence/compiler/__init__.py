"""Policies become rule sets and dialects.

Comes in: policies and inventory. Goes out: NetworkPolicy documents now; node rule sets later.
Refuses to know: analysis. Each is the oracle of the other.
"""
