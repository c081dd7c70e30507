from __future__ import annotations

import json
import logging
import sys

from cloister_coordinator.logs import StructuredFormatter


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("cloister", logging.INFO, "f", 1, "round %d done", (3,), None)
    vars(made).update(extra)
    return made


def test_text_is_one_line_of_pairs() -> None:
    line = StructuredFormatter("text").format(record(job="a b", state='q"', reason="", round=3))
    assert line.split(" ", 1)[1] == (
        'level=info logger=cloister event="round 3 done" job="a b" state="q\\"" round=3'
    )
    assert "\n" not in StructuredFormatter("text").format(record(reason="a\nb"))


def test_json_is_one_object() -> None:
    made = record(job="a\nb", round=3)
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = StructuredFormatter("json").format(made)
    assert "\n" not in line
    fields = json.loads(line)
    assert (fields["event"], fields["job"], fields["round"]) == ("round 3 done", "a\nb", 3)
    assert fields["traceback"].endswith("ValueError: why")
