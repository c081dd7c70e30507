from __future__ import annotations

from cloister_sandbox import Crashed, Faulted, OutOfTime
from cloister_sandbox import __all__ as names
from cloister_sandbox.errors import one_line


def test_messages_are_for_people() -> None:
    assert "10 seconds of CPU time" in str(OutOfTime("compile", "cpu", 10.0))
    assert "SIGKILL" in str(Crashed("killed", 9))
    assert "signal 200" in str(Crashed("killed", 200))
    fault = Faulted(2, "out of range", where="train", row=3)
    assert str(fault) == "train returned status 2 (out of range) at row 3"


def test_foreign_words_are_tamed() -> None:
    assert one_line("a\nb\x1b[31m\0 c") == "a b?[31m? c"
    assert len(one_line("x" * 10_000)) == 300


def test_all_is_true() -> None:
    import cloister_sandbox

    assert sorted(names, key=str) == sorted(set(names), key=str)
    assert all(hasattr(cloister_sandbox, name) for name in names)
