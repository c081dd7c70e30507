"""Exit code 0 while a client is checked in, by its audit log.

Usage: client.py STATE_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CONNECTED = {"connected": True, "disconnected": False, "started": False, "stopped": False}
"""What each event says of the connection; the others say nothing."""


def main(state_dir: str) -> int:
    """Look for the last event that says whether it is connected."""
    audit = Path(state_dir) / "audit.jsonl"
    for file in (audit, audit.with_name("audit.jsonl.1")):
        if not file.exists():
            continue
        for line in reversed(file.read_bytes().splitlines()):
            connected = CONNECTED.get(json.loads(line)["event"])
            if connected is not None:
                return 0 if connected else 1
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
