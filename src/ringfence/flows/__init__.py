"""Sightings become flows, flows become connections: direction, ownership, legs, categories.

Comes in: columns of counters from taps and translations from conntrack. Goes out: columns of flows with
their leg and connection. Pure NumPy over whole batches; never a Python object per flow.
Refuses to know: how packets were seen, who an address was, where flows are stored.
"""
