"""From a torch module to graphs of ATen operators: a training step and an evaluation.

A step holds forward, backward and the optimizer's update, so that later passes see all of it. It
is traced once, with fake tensors, by ``make_fx`` over ``torch.func`` (functional: parameters and
buffers go in and come out). Core ATen decompositions leave some sixty operators.

Loss and metrics are traced row by row (``torch.vmap``), so that the rows of a partial batch that
hold nothing can be left out of every sum; where a loss is no mean or sum over rows, or rows of a
batch influence each other in training, that is found out here, numerically, and said.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, functionalize, grad_and_value
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from cloister_tasks.compiler import decompositions
from cloister_tasks.compiler.optimizers import Rule
from cloister_tasks.compiler.recurrent import Recurrent
from cloister_tasks.compiler.unsupported import culprit
from cloister_tasks.errors import BuildError

Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""``(output, target) -> scalar``, or for a metric a number for each row."""
Groups: TypeAlias = Sequence[tuple[str, dict[str, Tensor]]]
"""Tensors a graph takes, one after the other: kinds of them, each by name."""
Given: TypeAlias = dict[str, dict[str, Tensor]]
"""The same while it is traced, by kind and name."""


@dataclass(frozen=True)
class Example:
    """One batch, by which shapes and dtypes are known."""

    inputs: tuple[Tensor, ...]
    target: Tensor

    @property
    def batch(self) -> int:
        """Rows."""
        return len(self.target)


@dataclass
class Subject:
    """What is compiled."""

    model: nn.Module
    loss: Loss
    rule: Rule
    example: Example
    metrics: Mapping[str, Loss] = field(default_factory=dict)
    clip_norm: float | None = None
    proximal: float | None = None

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model)
        named = dict(self.model.named_parameters())
        self.trained = {k: p.detach() for k, p in named.items() if p.requires_grad}
        self.frozen = {k: p.detach() for k, p in named.items() if not p.requires_grad}
        self.buffers = {k: b.detach().clone() for k, b in self.model.named_buffers()}
        changed = self._changed()
        self.running = {k: b for k, b in self.buffers.items() if k in changed}
        self.fixed = {k: b for k, b in self.buffers.items() if k not in changed}

    def forward(self, tensors: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> Any:
        """The model's output with these parameters and buffers."""
        return functional_call(self.model, dict(tensors), tuple(inputs))

    def rows(self, expression: Loss, output: Any, target: Tensor) -> Tensor:
        """A loss or metric of each row: f32[batch]."""

        def one(out: Any, wanted: Tensor) -> Tensor:
            value = expression(tree_map(lambda t: t[None], out), wanted[None])
            return value.to(torch.float32).mean()

        found: Tensor = torch.vmap(one, randomness="different")(output, target)
        return found

    def output(self) -> Any:
        """What the model gives for the example, in evaluation mode."""
        with torch.no_grad(), _deterministic():
            return self.model.eval()(*self.example.inputs)

    def _changed(self) -> set[str]:
        """Names of the buffers that training changes."""
        model = copy.deepcopy(self.model).train()
        with torch.no_grad(), _deterministic():
            model(*self.example.inputs)
        after = dict(model.named_buffers())
        return {k for k, b in self.buffers.items() if not torch.equal(b, after[k].to(b.dtype))}


@dataclass
class Captured:
    """A graph whose placeholders and results are named."""

    graph: Graph
    inputs: list[tuple[str, str]]
    """What each placeholder is: (kind, name)."""
    results: list[tuple[str, str]]
    """What each result is: (kind, name)."""
    constants: dict[str, Tensor]
    """Tensors the model made while it ran, by attribute name in the graph."""


Reduction: TypeAlias = Literal["mean", "sum", "batch"]


@dataclass(frozen=True)
class Behaviour:
    """How loss and model treat the rows of a batch."""

    reduction: Reduction
    """The loss is the mean or the sum of the rows' losses, or something of the whole batch."""
    coupled: bool
    """Rows influence each other's output in training, as under BatchNorm."""

    @property
    def maskable(self) -> bool:
        """Whether a batch may have rows that do not count."""
        return self.reduction != "batch" and not self.coupled


def behaviour(subject: Subject) -> Behaviour:
    """Find out by running the example through the model.

    Raises:
        BuildError: the loss is no scalar, or does not work on a single row.
    """
    example = subject.example
    output = subject.output()
    with torch.no_grad(), _deterministic():
        whole: Any = subject.loss(output, example.target)
        if not isinstance(whole, Tensor) or whole.numel() != 1:
            raise BuildError("the loss has to be one number: loss(output, target) -> scalar tensor")
        try:
            rows = subject.rows(subject.loss, output, example.target)
        except Exception as e:
            raise BuildError(
                "the loss does not work row by row, as reports and partial batches need: "
                f"torch.vmap over it says {str(e).splitlines()[0]!r}"
            ) from e
        reduction: Reduction = "batch"
        if torch.allclose(whole.flatten()[0].float(), rows.mean(), rtol=1e-4, atol=1e-6):
            reduction = "mean"
        elif torch.allclose(whole.flatten()[0].float(), rows.sum(), rtol=1e-4, atol=1e-6):
            reduction = "sum"
        return Behaviour(reduction, _coupled(subject))


def _coupled(subject: Subject) -> bool:
    """Whether the first rows' output changes with the last row, in training."""
    inputs = subject.example.inputs
    if subject.example.batch < 2:
        return any("BatchNorm" in type(m).__name__ for m in subject.model.modules())
    outputs = []
    for changed in (False, True):
        given = [x.clone() for x in inputs]
        if changed:
            for x in given:
                x[-1] = x[0]
        model = copy.deepcopy(subject.model).train()
        torch.manual_seed(0)
        outputs.append(tree_leaves(model(*given)))
    pairs = zip(*outputs, strict=True)
    return any(
        not torch.allclose(a[:-1], b[:-1], rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
        if isinstance(a, Tensor) and a.ndim and a.is_floating_point()
    )


def training(subject: Subject, how: Behaviour, *, traced: bool = False) -> Captured:
    """A training step: rows' losses and metrics, next parameters, states and running buffers."""
    subject.model.train()
    groups: Groups = [
        ("parameter", subject.trained),
        ("frozen", subject.frozen),
        ("fixed", subject.fixed),
        ("running", {k: b.float() for k, b in subject.running.items()}),
        *update_groups(subject),
        ("input", {str(i): x for i, x in enumerate(subject.example.inputs)}),
        ("target", {"": subject.example.target}),
        ("weight", {"": torch.ones(subject.example.batch)}),
    ]

    def step(*flat: Tensor) -> list[Tensor]:
        given = regroup(groups, flat)
        running = {k: v.to(subject.running[k].dtype) for k, v in given["running"].items()}
        metrics: dict[str, Tensor] = {}

        def objective(trained: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            buffers = {k: v.clone() for k, v in running.items()}
            tensors = {**trained, **given["frozen"], **given["fixed"], **buffers}
            output = subject.forward(tensors, list(given["input"].values()))
            target = given["target"][""]
            rows = subject.rows(subject.loss, output, target)
            metrics["loss"] = rows
            for name, expression in subject.metrics.items():
                metrics[name] = subject.rows(expression, output, target)
            if how.maskable:
                value = (rows * given["weight"][""]).sum()
            else:
                value = subject.loss(output, target)
                if how.reduction == "batch":  # no row has a loss of its own
                    metrics["loss"] = value.detach().expand(len(rows))
            return value, {**{f"metric {k}": v for k, v in metrics.items()}, **buffers}

        gradients, (_, after) = grad_and_value(objective, has_aux=True)(given["parameter"])
        results = [after[f"metric {k}"] for k in ("loss", *subject.metrics)]
        results += updated(subject, given, gradients)
        results += [after[k].float() for k in subject.running]
        return results

    names = [("metric", k) for k in ("loss", *subject.metrics)]
    names += update_results(subject)
    names += [("running", k) for k in subject.running]
    return traced_graph(step, groups, names, traced)


def update_groups(subject: Subject) -> Groups:
    """What an update needs beside parameters and gradients: states, anchors, scalars."""
    p, rule = subject.trained, subject.rule
    extra = {"clip_norm": subject.clip_norm, "proximal": subject.proximal}
    scalars = [*rule.scalars, *(name for name, value in extra.items() if value is not None)]
    return [
        *((state, {k: torch.zeros_like(v) for k, v in p.items()}) for state in rule.states),
        ("anchor", dict(p) if subject.proximal is not None else {}),
        ("scalar", {name: torch.zeros(()) for name in scalars}),
    ]


def update_results(subject: Subject) -> list[tuple[str, str]]:
    """Kind and name of each result of :func:`updated`."""
    kinds = ("parameter", *subject.rule.states)
    return [(kind, k) for kind in kinds for k in subject.trained]


def updated(subject: Subject, given: Given, gradients: Mapping[str, Tensor]) -> list[Tensor]:
    """The next parameters, then the next states, of a batch's gradients."""
    rule = subject.rule
    gradients = dict(gradients)
    for k, anchor in given["anchor"].items():
        distance = given["parameter"][k] - anchor
        gradients[k] = gradients[k] + given["scalar"]["proximal"] * distance
    if subject.clip_norm is not None:
        squares = torch.stack([(g * g).sum() for g in gradients.values()])
        norm = torch.sqrt(squares.sum())
        factor = torch.clamp(given["scalar"]["clip_norm"] / (norm + 1e-6), max=1.0)
        gradients = {k: g * factor for k, g in gradients.items()}
    following = [
        rule.apply(
            given["parameter"][k],
            gradients[k],
            {state: given[state][k] for state in rule.states},
            given["scalar"],
        )
        for k in subject.trained
    ]
    results = [parameter for parameter, _ in following]
    return results + [states[state] for state in rule.states for _, states in following]


def evaluation(subject: Subject, *, traced: bool = False) -> Captured:
    """Outputs, then the rows' losses and metrics, in evaluation mode."""
    subject.model.eval()
    groups: Groups = [
        ("parameter", subject.trained),
        ("frozen", subject.frozen),
        ("fixed", subject.fixed),
        ("running", {k: b.float() for k, b in subject.running.items()}),
        ("input", {str(i): x for i, x in enumerate(subject.example.inputs)}),
        ("target", {"": subject.example.target}),
    ]
    names: list[tuple[str, str]] = []

    def run(*flat: Tensor) -> list[Tensor]:
        given = regroup(groups, flat)
        running = {k: v.to(subject.running[k].dtype) for k, v in given["running"].items()}
        tensors = {**given["parameter"], **given["frozen"], **given["fixed"], **running}
        output = subject.forward(tensors, list(given["input"].values()))
        leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        expressions = {"loss": subject.loss, **subject.metrics}
        rows = [subject.rows(e, output, given["target"][""]) for e in expressions.values()]
        names[:] = [("output", str(i)) for i in range(len(leaves))]
        names.extend(("metric", k) for k in expressions)
        return [*(leaf.float() if leaf.is_floating_point() else leaf for leaf in leaves), *rows]

    with torch.no_grad():
        return traced_graph(run, groups, names, traced)


def regroup(groups: Groups, flat: Sequence[Tensor]) -> Given:
    """The tensors of a call by kind and name."""
    values = iter(flat)
    return {kind: {name: next(values) for name in tensors} for kind, tensors in groups}


def traced_graph(
    function: Callable[..., list[Tensor]],
    groups: Groups,
    results: list[tuple[str, str]],
    traced: bool,
) -> Captured:
    """The graph of a function over the tensors of `groups`, one after the other.

    Args:
        function: takes those tensors, gives as many as there are `results`.
        groups: kinds of tensors, each by name.
        results: kind and name of each result; may be filled in while `function` runs.
        traced: remember for each node the line of code it came from; slower.

    Raises:
        BuildError: torch cannot trace it.
    """
    # Copies: torch tells tensors apart by identity, and an input may well be the target too.
    flat = [tensor.detach().clone() for _, tensors in groups for tensor in tensors.values()]

    def trace(traceable: Callable[..., Any]) -> GraphModule:
        found: GraphModule = make_fx(
            traceable,
            decomposition_table=decompositions.table(),
            tracing_mode="fake",
            _allow_non_fake_inputs=True,
            record_stack_traces=traced,
        )(*flat)
        return found

    try:
        with _plain_kernels(), _deterministic():
            module = trace(function)
            if any(_mutates(node) for node in module.graph.nodes):
                module = trace(functionalize(module))
    except BuildError:
        raise
    except Exception as e:
        raise BuildError(
            "torch cannot trace the model into a graph: a model may not branch on the values of"
            " tensors (use torch.where), nor leave torch."
            f"\n{type(e).__name__}: {str(e).strip().splitlines()[0][:500] if str(e) else ''}"
            f"\n{culprit(e)}"
        ) from e
    module.graph.eliminate_dead_code()
    constants = {
        node.target: getattr(module, node.target)
        for node in module.graph.nodes
        if node.op == "get_attr"
    }
    for node in module.graph.nodes:
        if node.op == "get_attr":
            node.meta.setdefault("val", constants[node.target])
    inputs = [(kind, name) for kind, tensors in groups for name in tensors]
    return Captured(module.graph, inputs, list(results), constants)


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Let torch take the paths that decompose: no oneDNN, attention as products and softmax."""
    with (
        warnings.catch_warnings(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False), Recurrent(), decompositions.OneHot():
            yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """The user's random state stays as it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield
