"""CPU of an agent's mind for each flow record: from a window's counts to the bytes of its batch, without kernel and disk.

30,000 UDP conversations that two taps of two pods each saw both ways (120,000 map entries a window), ten windows after two to
warm up:

    python bench/fold.py [--flows 30000] [--windows 10]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from ringfence.agent.step import Keep, Observed, begin, step
from ringfence.flows.ends import OPENED
from ringfence.model.addresses import pack
from ringfence.model.batches import TapInfo
from ringfence.model.columns import TAP_COUNT, TRANSLATION, TUPLE, Table
from ringfence.wire.codec import encode

SECOND = 1_000_000_000
WARM = 2


def counts(flows: int, window: int) -> Table:
    """What two taps counted of each conversation, both ways."""
    rows = np.zeros(4 * flows, TAP_COUNT)
    ends = {"src": pack("10.244.1.5"), "dst": pack("10.244.1.6")}
    port = np.arange(flows) % 60_000 + 1_000
    for part in range(4):
        tap, back = part % 2, part // 2
        mine = rows[part * flows : (part + 1) * flows]
        one, other = ("dst", "src") if back else ("src", "dst")
        mine[one + "_hi"], mine[one + "_lo"] = ends["src"]
        mine[other + "_hi"], mine[other + "_lo"] = ends["dst"]
        mine[one + "_port"], mine[other + "_port"] = port, 9
        mine["tap"], mine["ingress"] = tap, tap == back
    rows["protocol"], rows["packets"], rows["octets"] = 17, 1, 78
    rows["first"] = rows["last"] = window + np.arange(len(rows))
    return rows


def observed(flows: int, number: int) -> Observed:
    """One window of a capture."""
    window = (10 + number) * SECOND
    return Observed(
        now=window + SECOND,
        windows=(window,),
        counts=counts(flows, window),
        generation=number + 1,
        packets=4 * flows,
        taps=(TapInfo("veth1", "pod", "uid-1"), TapInfo("veth2", "pod", "uid-2")),
        addresses=("10.88.0.11",),
        translations=np.zeros(0, TRANSLATION),
        hints=np.zeros(0, np.dtype(TUPLE)),
        processes=np.zeros(0, OPENED),
        process_infos=(),
        losses=(),
        notes=(),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--flows", type=int, default=30_000)
    parser.add_argument("--windows", type=int, default=10)
    asked = parser.parse_args()
    state = begin("bench", "node1", "e", "0", "detailed", SECOND, 10 * SECOND)
    spent, records, octets = 0.0, 0, 0
    for event in [observed(asked.flows, number) for number in range(WARM + asked.windows)]:
        start = time.process_time()
        state, commands = step(state, event)
        keep = next(command for command in commands if isinstance(command, Keep))
        body = encode(*keep)
        if event.generation > WARM:
            spent += time.process_time() - start
            records, octets = records + len(keep.sightings), octets + len(body)
    assert records == asked.flows * asked.windows
    print(f"{records:,} records: {spent / records * 1e6:.2f} us CPU and {octets / records:.1f} octets each")


if __name__ == "__main__":
    main()
