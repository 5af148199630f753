"""Keeps flows (columnar engine) and facts (SQL). `schema` is the only list of columns.

Comes in: columns and facts. Goes out: answers to queries. Refuses to know: HTTP, kernels.
"""
