"""The nouns: frozen values and their own algebra, nothing else.

Comes in: nothing. Goes out: values every other room speaks in.
Refuses to know: files, sockets, clocks, Kubernetes JSON, SQL.
"""
