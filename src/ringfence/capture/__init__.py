"""Packets become columns: eBPF taps, conntrack, processes, packet files.

Comes in: what a kernel or a file holds. Goes out: NumPy columns of `model.columns`.
Each source has a pure half (`decode`) and a thin half that touches the kernel.
Refuses to know: Kubernetes, servers, names.
"""
