"""The dense network templates against an independent float64 implementation in numpy."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from cloister_protos import Role
from cloister_tasks import VARIANTS, Status, build


class Oracle:
    """A dense ReLU network, its losses and PyTorch's SGD, in float64."""

    def __init__(self, widths, parameters, *, classify, lr=0.1, momentum=0.0, decay=0.0):
        self.classify, self.lr, self.momentum, self.decay = classify, lr, momentum, decay
        self.layers, at = [], 0
        for inputs, outputs in pairwise(widths):
            weight = parameters[at : at + inputs * outputs].reshape(outputs, inputs)
            at += inputs * outputs
            self.layers += [weight.astype(np.float64), parameters[at : at + outputs].astype("f8")]
            at += outputs
        self.velocity = [np.zeros_like(p) for p in self.layers]
        self.loss = self.hits = 0.0

    def forward(self, x):
        activations = [x.astype(np.float64)]
        for i in range(0, len(self.layers), 2):
            z = activations[-1] @ self.layers[i].T + self.layers[i + 1]
            activations.append(np.maximum(z, 0) if i + 2 < len(self.layers) else z)
        return activations

    def measure(self, z, y):
        """Adds to the metrics; gives the gradient by z of the rows' mean loss."""
        if not self.classify:
            d = z - y
            self.loss += (d**2).mean(1).sum()
            return 2 * d / d.size
        rows = np.arange(len(z))
        logp = z - z.max(1, keepdims=True)
        logp -= np.log(np.exp(logp).sum(1, keepdims=True))
        self.loss -= logp[rows, y].sum()
        self.hits += (z.argmax(1) == y).sum()
        gradient = np.exp(logp)
        gradient[rows, y] -= 1
        return gradient / len(z)

    def step(self, x, y):
        activations = self.forward(x)
        error = self.measure(activations[-1], y)
        gradients = []
        for i in range(len(self.layers) - 2, -1, -2):
            below = activations[i // 2]
            gradients[:0] = [error.T @ below, error.sum(0)]
            error = (error @ self.layers[i]) * (below > 0)
        for p, v, g in zip(self.layers, self.velocity, gradients, strict=True):
            v *= self.momentum
            v += g + self.decay * p
            p -= self.lr * v

    def train(self, x, y, batch):
        for at in range(0, len(x), batch):
            self.step(x[at : at + batch], y[at : at + batch])

    @property
    def parameters(self):
        return np.concatenate([p.ravel() for p in self.layers])


NETWORKS = {
    "digits": ("softmax-regression", {"features": 64, "classes": 10}, [64, 10]),
    "odd": ("softmax-regression", {"features": 13, "classes": 3}, [13, 3]),
    "line": ("linear-regression", {"features": 5}, [5, 1]),
    "plane": ("linear-regression", {"features": 9, "outputs": 6}, [9, 6]),
    "mlp": ("perceptron", {"features": 64, "hidden": 128, "classes": 10}, [64, 128, 10]),
    "deep": ("perceptron", {"features": 11, "hidden": (7, 33, 5), "classes": 4}, [11, 7, 33, 5, 4]),
    "wide": ("perceptron", {"features": 300, "hidden": 21, "classes": 2}, [300, 21, 2]),
}


def prepare(guest, network, rows, *, variant="simd128", seed=0, capacity=64):
    """A guest with random parameters and rows; the rows as well."""
    template, shape, widths = NETWORKS[network]
    g = guest(build(template, variant=variant, capacity=capacity, **shape))
    rng = np.random.default_rng(seed)
    assert g("init", 7) == 0
    assert g("reset") == 0
    if len(widths) == 2:
        g.parameters[:] = rng.standard_normal(g.parameters.size) * 0.3
    x = rng.standard_normal((rows, widths[0]), dtype=np.float32)
    g["features"][:rows] = x
    if template == "linear-regression":
        y = rng.standard_normal((rows, widths[-1]), dtype=np.float32)
        g["target"][:rows] = y
    else:
        y = rng.integers(0, widths[-1], rows).astype(np.int32)
        g["label"][:rows] = y
    return g, widths, x, y, template != "linear-regression"


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rows", [1, 14, 32])
def test_one_step_follows_the_gradient(guest, network, variant, rows):
    g, widths, x, y, classify = prepare(guest, network, rows, variant=variant)
    oracle = Oracle(widths, g.parameters, classify=classify, lr=1.0)
    before = g.parameters.astype("f8")
    g["learning_rate"] = 1.0
    assert g("train", rows) == Status.OK
    oracle.train(x, y, rows)
    # With a step size of one the step is the gradient; storing W - g rounds at the size of W.
    assert error(g.parameters - before, oracle.parameters - before) < 1e-5
    assert g["loss"] == pytest.approx(oracle.loss, rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("network", ["digits", "plane", "deep"])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01), (0.5, 0.02)])
def test_partial_batches_momentum_and_decay(guest, network, variant, momentum, decay):
    g, widths, x, y, classify = prepare(guest, network, 37, variant=variant)
    oracle = Oracle(widths, g.parameters, classify=classify, momentum=momentum, decay=decay)
    before = g.parameters.astype("f8")
    g["momentum"], g["weight_decay"], g["batch_size"] = momentum, decay, 10
    for _ in range(2):  # the optimizer's state lives on between calls
        assert g("train", 37) == Status.OK
        oracle.train(x, y, 10)
    assert error(g.parameters - before, oracle.parameters - before) < 1e-5
    assert g["loss"] == pytest.approx(oracle.loss, rel=1e-6)
    if classify:
        assert g["accuracy"] == oracle.hits


@pytest.mark.parametrize("network", ["digits", "mlp", "plane"])
def test_evaluate_and_predict_change_nothing(guest, network):
    g, widths, x, y, classify = prepare(guest, network, 50)
    oracle = Oracle(widths, g.parameters, classify=classify)
    before = g.parameters.copy()
    assert g("evaluate", 50) == Status.OK
    assert g("predict", 50) == Status.OK
    z = oracle.forward(x)[-1]
    oracle.measure(z, y)
    assert g["loss"] == pytest.approx(oracle.loss, rel=1e-6)
    if classify:
        assert g["accuracy"] == oracle.hits
        wanted = np.exp(z - z.max(1, keepdims=True))
        wanted /= wanted.sum(1, keepdims=True)
        np.testing.assert_allclose(g["probability"][:50], wanted, rtol=1e-5, atol=1e-7)
    else:
        np.testing.assert_allclose(g["prediction"][:50], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(g.parameters, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_runs_are_bit_identical(guest, variant):
    def digest():
        g, *_ = prepare(guest, "deep", 60, variant=variant)
        g["momentum"] = 0.9
        g("train", 60)
        return hashlib.sha256(g.parameters).hexdigest()

    assert digest() == digest()


def test_scalar_and_simd128_agree_bit_for_bit(guest):
    results = []
    for variant in ("scalar", "simd128"):
        g, *_ = prepare(guest, "deep", 60, variant=variant)
        g["momentum"] = 0.9
        assert g("train", 60) == Status.OK
        results.append(g.parameters.tobytes())
    assert results[0] == results[1]


def test_reset_forgets_all_but_the_model(guest):
    g, *_ = prepare(guest, "deep", 40)
    start = g.parameters.copy()
    g["momentum"] = 0.9
    g("train", 40)
    once = g.parameters.copy(), g["loss"].copy()
    g.parameters[:] = start
    g("reset")
    g("train", 40)
    np.testing.assert_array_equal(g.parameters, once[0])
    assert g["loss"] == once[1]


def test_training_in_two_calls_is_training_in_one(guest):
    whole, *_ = prepare(guest, "mlp", 60)
    parts, _, x, y, _ = prepare(guest, "mlp", 60)
    for g in (whole, parts):
        g["batch_size"] = 20
    whole("train", 60)
    parts("train", 40)
    parts["features"][:20], parts["label"][:20] = x[40:], y[40:]
    parts("train", 20)
    np.testing.assert_array_equal(whole.parameters, parts.parameters)
    assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-12)


@pytest.mark.parametrize("label", [-1, 10, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("call", ["train", "evaluate"])
def test_a_label_out_of_range_is_named_and_nothing_is_done(guest, label, call):
    g, *_ = prepare(guest, "digits", 40)
    before = g.parameters.copy()
    g["label"][33] = label
    assert g(call, 40) == Status.INDEX
    assert g["fault"] == 33
    np.testing.assert_array_equal(g.parameters, before)
    assert g("predict", 40) == Status.OK
    g("reset")
    assert g["fault"] == -1
    assert g(call, 33) == Status.OK


@pytest.mark.parametrize("rows", [-1, 65, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("call", ["train", "evaluate", "predict"])
def test_rows_beyond_the_capacity_are_refused(guest, rows, call):
    g, *_ = prepare(guest, "digits", 1)
    assert g(call, rows) == Status.TOO_MANY


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("network", ["mlp", "digits", "plane"])
def test_a_value_that_is_not_finite_is_named(guest, network, value):
    g, *_ = prepare(guest, network, 40)
    g["batch_size"] = 8
    g["features"][21, 3] = value
    assert g("train", 40) == Status.NOT_FINITE
    assert g["fault"] == 21


def test_hyperparameters_out_of_range_are_refused(guest):
    g, *_ = prepare(guest, "digits", 4)
    g["batch_size"] = 0
    assert g("train", 4) == Status.VALUE
    g["batch_size"], g["learning_rate"] = 4, np.nan
    assert g("train", 4) == Status.VALUE


def test_a_single_layer_starts_at_zero_and_deep_ones_at_random(guest):
    flat, deep = (guest(build(NETWORKS[n][0], **NETWORKS[n][1])) for n in ("digits", "mlp"))
    flat("init", 3)
    assert not flat.parameters.any()
    deep("init", 3)
    first = deep.parameters.copy()
    weight = deep["layer0.weight"]
    assert weight.shape == (128, 64)
    assert np.abs(weight).max() <= 1 / 8
    assert abs(weight.std() - 1 / 8 / 3**0.5) < 2e-3
    assert np.unique(first).size > 0.99 * first.size
    deep("init", 4)
    assert (deep.parameters != first).all()
    deep("init", 3)
    np.testing.assert_array_equal(deep.parameters, first)


def test_names_shapes_and_defaults(guest):
    g, *_ = prepare(guest, "digits", 1)
    manifest = g.module.manifest
    assert [b.name for b in manifest.of(Role.ROLE_PARAMETER)] == ["weight", "bias"]
    assert manifest.buffers["weight"].shape == (10, 64)
    assert manifest.parameter_count == 650
    assert manifest.capacity == 64
    defaults = {b.name: g[b.name].item() for b in manifest.of(Role.ROLE_HYPERPARAMETER)}
    assert defaults == {
        "learning_rate": pytest.approx(0.1),
        "momentum": 0,
        "weight_decay": 0,
        "batch_size": 32,
    }
