from datetime import date
from pathlib import Path

from cloister_client.day_budget import DayBudget


def test_seconds_add_up_and_begin_anew_each_day(tmp_path: Path) -> None:
    today = [date(2026, 11, 20)]
    budget = DayBudget(tmp_path / "day.json", lambda: today[0])
    budget.spend(2.0)
    budget.spend(3.0)
    assert budget.seconds == 5.0
    assert DayBudget(tmp_path / "day.json", lambda: today[0]).seconds == 5.0
    today[0] = date(2026, 11, 21)
    assert budget.seconds == 0.0
    budget.spend(1.0)
    assert budget.seconds == 1.0
    assert DayBudget(tmp_path / "day.json", lambda: date(2026, 11, 22)).seconds == 0.0


def test_a_damaged_file_counts_as_a_day_without_work(tmp_path: Path) -> None:
    for text in ("", "[]", '{"day": "2026-11-20"}', "{"):
        (tmp_path / "day.json").write_text(text)
        assert DayBudget(tmp_path / "day.json", lambda: date(2026, 11, 20)).seconds == 0.0
