import pytest

from cloister_client.assignment import validate
from cloister_client.errors import UnfitAssignment
from cloister_protos import (
    Assignment,
    Blob,
    Graph,
    Module,
    SecureAggregation,
    SecureTerms,
    Training,
)

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
        (Assignment(clip_norm=-1.0), "clip_norm"),
        (Assignment(clip_norm=float("inf")), "clip_norm"),
        (Assignment(clip_norm=float("nan")), "clip_norm"),
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


def masked(**fields: object) -> Assignment:
    """A good one with secure aggregation, but for `fields` of its settings or terms."""
    settings = {
        "graph": Graph.GRAPH_RING,
        "corrupt_fraction": 0.5,
        "drop_out_fraction": 0.5,
        "value_bits": 24,
        "max_weight": 1 << 20,
        "step_seconds": 3600.0,
    }
    terms = {"members": 5000, "minimum": 5000, "noise_variance": 2.0**32, "count_variance": 1.0}
    for name, value in fields.items():
        (settings if name in settings else terms)[name] = value
    assignment = good()
    assignment.clip_norm = 1.0
    assignment.secure.CopyFrom(SecureTerms(settings=SecureAggregation(**settings), **terms))
    return assignment


def test_good_terms_pass() -> None:
    validate(masked())
    validate(masked(members=2, minimum=2, max_weight=1, value_bits=2, noise_variance=0.0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("graph", Graph.GRAPH_UNSPECIFIED, "graph is 0"),
        ("graph", 7, "graph is 7"),
        ("corrupt_fraction", 0.6, "corrupt_fraction"),
        ("corrupt_fraction", float("nan"), "corrupt_fraction"),
        ("drop_out_fraction", -0.1, "drop_out_fraction"),
        ("value_bits", 1, "value_bits"),
        ("value_bits", 25, "value_bits"),
        ("max_weight", 0, "max_weight"),
        ("max_weight", (1 << 32) + 1, "max_weight"),
        ("max_weight", 1 << 32, "bits, of at most 62"),
        ("step_seconds", 0.0, "step_seconds"),
        ("step_seconds", 3601.0, "step_seconds"),
        ("members", 1, "members"),
        ("members", 5001, "members"),
        ("minimum", 1, "minimum"),
        ("minimum", 5001, "minimum"),
        ("noise_variance", -1.0, "noise_variance"),
        ("noise_variance", float("inf"), "noise_variance"),
        ("noise_variance", 2.0**33, "noise_variance"),
        ("count_variance", float("nan"), "count_variance"),
    ],
)
def test_terms_out_of_bounds_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(UnfitAssignment, match=message):
        validate(masked(**{field: value}))


@pytest.mark.parametrize("clip_norm", [0.0, 1e-39, 1e39])
def test_masks_need_a_clipping_norm_of_float32(clip_norm: float) -> None:
    assignment = masked()
    assignment.clip_norm = clip_norm
    with pytest.raises(UnfitAssignment, match="clip_norm under secure aggregation"):
        validate(assignment)
