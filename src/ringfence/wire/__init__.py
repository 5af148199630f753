"""What agent and server say to each other: packed columns, zstd, acknowledged and in order.

`codec` is pure: bytes to columns and back. Refuses to know: who calls, where it is stored.
"""
