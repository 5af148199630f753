"""Packets of a tap, whole, as pcapng: for people who ask for them, apart from what counts flows.

`pcapng` and `ring` are pure; `compile` asks libpcap for a filter; `tap` holds the socket.
"""
