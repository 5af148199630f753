"""Packet files become columns of packets: pcap and pcapng, every link type and tunnel that carries IP.

Comes in: bytes of a capture. Goes out: `flows.packets.Packets`, one row per IP header found, and how far the
file could be read. `sources` opens and unpacks, `pcap` and `pcapng` find the frames, `decode` walks the
headers (`link`, `network`, `tunnels` hold the rules of each), `quick` does the commonest shape in fewer steps.
Refuses to know: names, connections, who asked.
"""
