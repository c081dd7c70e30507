"""A coordinator as a process of its own: data folder and address as arguments."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cloister_coordinator import CoordinatorConfig, serve


def main() -> None:
    config = CoordinatorConfig(
        Path(sys.argv[1]),
        address=sys.argv[2],
        settle_seconds=0.0,
        retry_seconds=0.0,
        reconnect_grace_seconds=float(sys.argv[3]),
    )
    asyncio.run(serve(config, ready=lambda address: print(address, flush=True)))


if __name__ == "__main__":
    main()
