"""The built-in aggregations against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_protos import Kind, Role
from cloister_tasks import AGGREGATIONS, BuildError, Module, Status, aggregation, builtin


@pytest.fixture(scope="module", autouse=True)
def _built(build_cache):
    """Built at installation; here, so that the tests never run against a stale build."""
    folder = build_cache / "aggregations"
    folder.mkdir(exist_ok=True)
    for name in AGGREGATIONS:
        source = builtin.PACKAGE / "aggregations" / f"{name}.c"
        (folder / f"{name}.wasm").write_bytes(builtin.compile_c(source))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "_FOLDER", folder)
        yield


def aggregate(g, model, updates, weights, *, groups=None, chunk=None, total=None):
    """Chunk-major, as the coordinator does it; `groups` are the rows of each call of `fold`."""
    columns = g["model"].size
    chunk = chunk or columns
    groups = groups or [len(updates)]
    out = np.empty_like(model)
    for at in range(0, len(model), chunk):
        width = min(chunk, len(model) - at)
        assert g("reset", width) == 0
        first = 0
        for rows in groups:
            block = updates[first : first + rows, at : at + width]
            g["update"][: block.size] = block.ravel()
            g["weight"][:rows] = weights[first : first + rows]
            status = g("fold", rows, width)
            if status:
                return status
            first += rows
        assert first == len(updates)
        g["model"][:width] = model[at : at + width]
        g["total"] = weights.sum() if total is None else total
        status = g("finish", width)
        if status:
            return status
        out[at : at + width] = g["model"][:width]
    return out


def sample(rows, columns, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal(columns, dtype=np.float32),
        rng.standard_normal((rows, columns), dtype=np.float32),
        rng.integers(1, 1000, rows).astype("f8"),
    )


ORACLES = {
    "fedavg": lambda m, u, w: m + (w[:, None] * u.astype("f8")).sum(0) / w.sum(),
    "sum": lambda m, u, w: m + u.astype("f8").sum(0),
    "median": lambda m, u, w: m + np.median(u.astype("f8"), axis=0),
}


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 8, 31, 64, 100, 255])
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_against_numpy(guest, name, rows):
    model, updates, weights = sample(rows, 397, seed=rows)
    found = aggregate(guest(aggregation(name)), model, updates, weights)
    wanted = ORACLES[name](model.astype("f8"), updates, weights)
    if name == "median":
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(
    groups=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum),
    chunk=st.integers(1, 60),
    seed=st.integers(0, 100),
)
@pytest.mark.parametrize("name", AGGREGATIONS)
def test_grouping_and_chunking_change_nothing(guest, name, groups, chunk, seed):
    model, updates, weights = sample(sum(groups), 61, seed)
    data = aggregation(name)
    whole = aggregate(guest(data), model, updates, weights)
    parts = aggregate(guest(data), model, updates, weights, groups=groups, chunk=chunk)
    assert whole.tobytes() == parts.tobytes()


def test_medians_by_hand(guest):
    g = guest(aggregation("median"))
    updates = np.float32([[1, 5, -3], [2, 5, 9], [7, 5, 0]])
    model = np.float32([10, 0, 0])
    assert aggregate(g, model, updates, np.zeros(3)).tolist() == [12, 5, 0]
    assert aggregate(g, model, updates[:2], np.zeros(2)).tolist() == [11.5, 5, 3]


def test_averages_by_hand(guest):
    g = guest(aggregation("fedavg"))
    updates, weights = np.float32([[1, 0], [4, 8]]), np.float64([3, 1])
    assert aggregate(g, np.float32([10, 20]), updates, weights).tolist() == [11.75, 22]


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 5, 396])
def test_a_poisoned_update_is_named(guest, name, value, column):
    g = guest(aggregation(name))
    model, updates, weights = sample(9, 397)
    updates[6, column] = value
    assert aggregate(g, model, updates, weights) == Status.NOT_FINITE
    assert g["fault"] == 6


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("weight", [np.nan, np.inf, -1.0])
def test_a_bad_weight_is_named(guest, name, weight):
    g = guest(aggregation(name))
    model, updates, weights = sample(5, 7)
    weights[2] = weight
    assert aggregate(g, model, updates, weights) == Status.VALUE
    assert g["fault"] == 2


def test_no_weight_at_all_is_refused(guest):
    model, updates, weights = sample(3, 7)
    assert aggregate(guest(aggregation("fedavg")), model, updates, weights * 0) == Status.VALUE
    g = guest(aggregation("median"))
    assert (g("reset", 7), g("finish", 7)) == (0, Status.VALUE)


def test_a_result_past_f32_is_not_finite(guest):
    huge = np.full((1, 3), 3e38, np.float32)
    found = aggregate(guest(aggregation("sum")), huge[0], huge, np.ones(1))
    assert found == Status.NOT_FINITE


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_capacities_are_kept(guest, name):
    g = guest(aggregation(name))
    columns, elements, rows = (g[n].size for n in ("model", "update", "weight"))
    assert elements >= 4 * columns
    for call in (
        ("reset", columns + 1),
        ("reset", -1),
        ("fold", 1, columns + 1),
        ("fold", rows + 1, 1),
        ("fold", elements // columns + 1, columns),
        ("fold", -1, 1),
        ("fold", 1, -1),
        ("fold", 2**31 - 1, 2**31 - 1),
        ("finish", columns + 1),
        ("finish", -1),
    ):
        assert g(*call) == Status.TOO_MANY, call


def test_the_256th_median_is_refused(guest):
    g = guest(aggregation("median"))
    assert g("reset", 1) == 0
    assert g("fold", 255, 1) == 0
    assert g("fold", 1, 1) == Status.TOO_MANY_UPDATES
    assert g("fold", 0, 1) == 0


def test_manifests_and_names():
    for name in AGGREGATIONS:
        manifest = Module.parse(aggregation(name)).manifest
        assert manifest.name == name
        assert manifest.kind == Kind.KIND_AGGREGATION
        assert manifest.of(Role.ROLE_MODEL)[0].name == "model"
        assert not manifest.masked
    with pytest.raises(BuildError, match="there are fedavg, median, sum"):
        aggregation("mean")


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_what_they_say_of_themselves_holds(guest, name):
    """Linear: the sum alone gives the same. Unweighted: other weights do."""
    manifest = Module.parse(aggregation(name)).manifest
    model, updates, weights = sample(5, 97)
    g = guest(aggregation(name))
    whole = aggregate(g, model, updates, weights)
    flat = aggregate(g, model, updates, np.ones(5))
    assert np.array_equal(whole, flat) == manifest.unweighted
    factors = np.ones(5) if manifest.unweighted else weights
    alone = (factors[:, None] * updates.astype("f8")).sum(0, keepdims=True).astype(np.float32)
    found = aggregate(g, model, alone, np.ones(1), total=weights.sum())
    assert np.allclose(found, whole, rtol=1e-6, atol=1e-6) == manifest.linear


def test_which_are_linear():
    manifests = {name: Module.parse(aggregation(name)).manifest for name in AGGREGATIONS}
    assert [name for name, m in manifests.items() if m.linear] == ["fedavg", "sum"]
    assert [name for name, m in manifests.items() if m.unweighted] == ["median", "sum"]


def test_an_installation_without_builds_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "_FOLDER", tmp_path)
    with pytest.raises(BuildError, match="make tasks"):
        aggregation("sum")
