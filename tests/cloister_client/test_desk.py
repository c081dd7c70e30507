import threading
import time

import pytest

from cloister_client.desk import MAX_OPEN, Desk, Work
from cloister_client.errors import Withdrawn
from cloister_protos import Assignment


def assignment(name: str, seconds: float = 60.0) -> Assignment:
    return Assignment(assignment_id=name, deadline_seconds=seconds)


def test_work_is_taken_in_order_and_stays_open_until_dropped() -> None:
    desk = Desk()
    assert desk.put(assignment("a"))
    assert desk.put(assignment("b"))
    assert desk.put(assignment("a"))  # sent again after a reconnect
    first = desk.take()
    assert first is not None
    assert first.assignment.assignment_id == "a"
    assert desk.put(assignment("a"))
    assert desk.open_ids() == ["a", "b"]
    desk.drop(first)
    assert desk.open_ids() == ["b"]
    second = desk.take()
    assert second is not None
    assert second.assignment.assignment_id == "b"


def test_take_waits_and_closing_ends_the_waiting() -> None:
    desk = Desk()
    taken: list[Work | None] = []
    thread = threading.Thread(target=lambda: taken.extend([desk.take(), desk.take()]))
    thread.start()
    desk.put(assignment("a"))
    desk.close("stop")
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert taken[-1] is None


def test_a_full_desk_says_so() -> None:
    desk = Desk()
    assert all(desk.put(assignment(str(number))) for number in range(MAX_OPEN))
    assert not desk.put(assignment("more"))


def test_withdrawn_work_raises_its_first_reason() -> None:
    desk = Desk()
    desk.put(assignment("a"))
    work = desk.take()
    assert work is not None
    work.check()
    desk.withdraw("a", "cancelled")
    desk.withdraw("a", "later reason")
    desk.withdraw("unknown", "ignored")
    with pytest.raises(Withdrawn, match=r"^cancelled$"):
        work.check()
    assert desk.open_ids() == []


def test_withdrawing_interrupts_only_while_interruptible() -> None:
    work, calls = Work(assignment("a")), []
    with work.interruptible(lambda: calls.append("called")):
        pass
    with work.interruptible(lambda: calls.append("during")):
        work.withdraw("cancelled")
    assert calls == ["during"]
    with pytest.raises(Withdrawn), work.interruptible(lambda: calls.append("after")):
        calls.append("never")
    assert calls == ["during"]


def test_a_pause_ends_with_withdrawal_or_deadline() -> None:
    work = Work(assignment("a"))
    threading.Timer(0.01, work.withdraw, ["cancelled"]).start()
    with pytest.raises(Withdrawn, match="cancelled"):
        work.pause(60)
    began = time.monotonic()
    with pytest.raises(Withdrawn, match="deadline"):
        Work(assignment("b", seconds=0.01)).pause(60)
    assert time.monotonic() - began < 30
