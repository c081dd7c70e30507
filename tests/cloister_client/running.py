"""An agent at work, and assignments for it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from cloister_client import Agent, ClientConfig
from cloister_protos import Assignment, Blob, Module, Training
from cloister_tasks import build

SECONDS = 20.0
FEATURES, CLASSES, ROWS = 4, 2, 30
TASK = build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=64)
PARAMETERS = FEATURES * CLASSES + CLASSES
TOML = """
[client]
name = "tester"
state_dir = "state"
tags = ["t"]
[coordinator]
address = "127.0.0.1:{port}"
max_reconnect_seconds = 0.05
[data.d]
path = "d.csv"
label = "y"
evaluation_fraction = 0.2
[policy]
{policy}
"""


class Running:
    """An agent at work in a thread, and assignments for it."""

    def __init__(self, coordinator: Any, config: ClientConfig):
        self.coordinator, self.config = coordinator, config
        self.stop = threading.Event()
        self._thread = threading.Thread(target=Agent(config).run, args=(self.stop,))
        self._round = 0
        self._thread.start()

    def assignment(
        self, task: bytes = TASK, model: bytes = bytes(4 * PARAMETERS), **fields: Any
    ) -> Assignment:
        self._round += 1
        blob = self.coordinator.put(model)
        standard = {
            "training": Training(epochs=1),
            "inline_model": model,
            "deadline_seconds": 60.0,
        }
        return Assignment(
            assignment_id=f"j/{self._round}/c",
            job_id="j",
            job_name="job",
            round=self._round,
            task=Module(blob=self.coordinator.put(task)),
            aggregation=Module(blob=Blob(digest=bytes(32), size=1)),
            model=blob,
            **{**standard, **fields},
        )

    def answer_to(self, assignment: Assignment) -> Any:
        self.coordinator.assign(assignment)
        answer = self.coordinator.answer()
        assert answer.assignment_id == assignment.assignment_id
        return answer

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """The audit log's first line about it, or a later one."""
        deadline = time.monotonic() + SECONDS
        while len(lines := [line for line in self.audit() if line["event"] == event]) < count:
            assert time.monotonic() < deadline, f"no {event}"
            self.stop.wait(0.01)
        return lines[count - 1]

    def audit(self) -> list[dict[str, Any]]:
        lines = (self.config.state_dir / "audit.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def join(self) -> None:
        self.stop.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def write_data(folder: Path) -> None:
    rng = np.random.default_rng(3)
    rows = [
        ",".join([*(f"{x:.3f}" for x in rng.standard_normal(FEATURES)), str(i % CLASSES)])
        for i in range(ROWS)
    ]
    (folder / "d.csv").write_text("\n".join(["a,b,c,d,y", *rows]))
