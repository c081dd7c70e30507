import pytest

from cloister_client.assignment import validate
from cloister_client.errors import UnfitAssignment
from cloister_protos import Assignment, Blob, Module, Training

BLOB = Blob(digest=b"d" * 32, size=8)


def good() -> Assignment:
    return Assignment(
        assignment_id="j/1/c",
        job_id="j",
        task=Module(blob=BLOB),
        aggregation=Module(blob=BLOB),
        model=BLOB,
        training=Training(epochs=1),
        deadline_seconds=5.0,
    )


def test_a_good_one_passes() -> None:
    validate(good())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Assignment(assignment_id="x" * 300), "assignment_id"),
        (Assignment(job_name="a\nb"), "job_name"),
        (Assignment(deadline_seconds=float("inf")), "deadline"),
        (Assignment(deadline_seconds=float("nan")), "deadline"),
        (Assignment(deadline_seconds=-1), "deadline"),
        (Assignment(task=Module(blob=Blob(digest=b"short"))), "task: a digest"),
        (Assignment(model=Blob(size=2**40)), "model: a digest"),
        (Assignment(frozen=Blob()), "frozen: a digest"),
        (Assignment(task=Module(publisher=b"short")), "publisher"),
        (Assignment(inline_model=b"1234567"), "inline_model has 7 bytes"),
        (Assignment(training=Training(epochs=1001)), "epochs"),
    ],
)
def test_what_breaks_the_bounds_is_refused(change: Assignment, message: str) -> None:
    assignment = good()
    assignment.MergeFrom(change)
    with pytest.raises(UnfitAssignment, match=message):
        validate(assignment)


def test_no_work_at_all_is_refused() -> None:
    assignment = good()
    assignment.ClearField("training")
    with pytest.raises(UnfitAssignment, match="neither"):
        validate(assignment)
    assignment.evaluate = True
    validate(assignment)
