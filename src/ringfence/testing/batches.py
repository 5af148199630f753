"""Batches for tests: sightings with sensible values, in the real layout, without a kernel."""

from __future__ import annotations

import numpy as np

from ringfence.model.addresses import pack
from ringfence.model.batches import BatchHeader, TapInfo
from ringfence.model.columns import SIGHTING, TRANSLATION, Direction, Role, Table, structured

SECOND = 1_000_000_000
START = 1_767_225_600 * SECOND
"""2026-01-01T00:00:00Z in nanoseconds."""


def sighting(
    window: int,
    consumer: str = "10.244.1.5",
    provider: str = "10.244.2.7",
    ports: tuple[int, int] = (41022, 80),
    role: int = Role.CONSUMER,
    packets: tuple[int, int] = (6, 5),
    first_window: int | None = None,
    direction: int = Direction.SYN,
    protocol: int = 6,
) -> Table:
    """One SIGHTING row; octets are 100 a packet, times lie inside the window."""
    row = structured(SIGHTING, 1)
    row["window"], row["first"], row["last"] = window, window + 1000, window + 2000
    row["first_window"] = window if first_window is None else first_window
    for side, address, port in (("consumer", consumer, ports[0]), ("provider", provider, ports[1])):
        row[side + "_hi"], row[side + "_lo"] = pack(address)
        row[side + "_port"] = port
    row["protocol"], row["role"], row["direction"] = protocol, role, direction
    row["consumer_packets"], row["provider_packets"] = packets
    row["consumer_octets"], row["provider_octets"] = packets[0] * 100, packets[1] * 100
    row["taps"][:, 0] = 1
    return row


def no_translations() -> Table:
    """An empty TRANSLATION table."""
    return np.zeros(0, TRANSLATION)


def header(
    sequence: int,
    windows: tuple[int, ...],
    node: str = "node1",
    epoch: str = "e1",
    cluster: str = "lab",
    **facts: object,
) -> BatchHeader:
    """A header with one tap `veth0` and windows of one second."""
    values = {"taps": (TapInfo("veth0", "pod"),), "window_length": SECOND, "sent": START, **facts}
    return BatchHeader(cluster, node, epoch, sequence, windows=windows, **values)  # type: ignore[arg-type]
