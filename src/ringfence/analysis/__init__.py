"""Judges what policy says of an edge, with reasons.

Comes in: policies and endpoints. Goes out: verdicts (allow, deny, unknown) and why.
Refuses to know: the compiler. Each is the oracle of the other.
"""
