"""Hold a headless demo's document against what the README promises. Usage: check_demo.py DEMO.json POLICIES_DIR"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from ringfence.flows.golden import GOLDEN

OTHER_OVERLAY = {"pod-to-pod-routed"}
"""Golden categories a VXLAN lab cannot make."""


def complaints(document: dict, policies: Path) -> list[str]:
    """What is not as promised."""
    found = []
    if document["mode"] != "live":
        found.append(f"the demo ran in mode {document['mode']}, not live")
    for golden in GOLDEN:
        row = document["categories"][golden.name]
        if golden.name not in OTHER_OVERLAY and not 0 < row["connections"] == row["legs_linked"]:
            found.append(
                f"{golden.name}: {row['legs_linked']} of {row['connections']} connections have every leg"
            )
    found += [f"no {name}" for name in ("edges", "policies", "unresolved", "agents") if not document[name]]
    if not document["completeness"]["complete"]:
        found.append(f"incomplete: {document['completeness']['reasons']}")
    for policy in document["policies"]:
        body = yaml.safe_load(Path(policy["file"]).read_text())
        if body["kind"] != "NetworkPolicy" or Path(policy["file"]).parent != policies:
            found.append(f"{policy['file']} is not a policy where it should be")
    return found


def main() -> int:
    found = complaints(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    for complaint in found:
        print(f"demo: {complaint}", file=sys.stderr)
    print("demo: as promised" if not found else "demo: not as promised")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
