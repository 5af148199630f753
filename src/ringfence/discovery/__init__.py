"""Labelled edges become a proposed policy, each rule with its evidence.

Comes in: edges between endpoints. Goes out: proposals with evidence, and what is left to decide.
Refuses to know: YAML dialects, kernels, stores.
"""
