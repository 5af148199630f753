"""The pure half of kernel capture: octets the kernel hands over become columns and small values.

No file, socket or clock is touched here; `counts`, `conntrack`, `links` and `cgroups` are tested with bytes.
"""
