"""Logs of other tools for tests, in their real form."""

from __future__ import annotations

HEADER = "#separator \\x09\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tservice\tduration\torig_bytes\tresp_bytes\tconn_state\tlocal_orig\tlocal_resp\tmissed_bytes\thistory\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\n"  # fmt: skip


def zeek(*times: int, consumer: str = "10.244.1.5", state: str = "SF") -> bytes:
    """A conn.log with one connection from front-1 to carts-1 at each time (UTC nanoseconds)."""
    lines = [
        f"{at / 1e9:.6f}\tC{n}\t{consumer}\t{41000 + n}\t10.244.2.7\t80\ttcp\t-\t0.5\t10\t20\t{state}\t-\t-\t0\tShADadFf\t6\t330\t5\t280\n"
        for n, at in enumerate(times)
    ]
    return (HEADER + "".join(lines)).encode()
