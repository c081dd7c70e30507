"""LSTM and GRU layers as operators of their own, so that no time step is ever unrolled.

While a model is traced, ``torch.lstm`` and ``torch.gru`` (what ``nn.LSTM`` and ``nn.GRU`` call) are
taken apart into large products over all steps and one operator that walks through them; the
operators' kernels are ``kernels/recurrent.h``. Their definitions here are what the tests hold the
kernels against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.overrides import TorchFunctionMode

_LIBRARY = torch.library.Library("cloister", "DEF")


def _operator(definition: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function an operator of torch; derivatives are given by the functions further down."""
    schema = torch.library.infer_schema(definition, mutates_args=())
    _LIBRARY.define(f"{definition.__name__}{schema}")
    _LIBRARY.impl(definition.__name__, definition, "CompositeExplicitAutograd")
    return definition


@_operator
def lstm(x: Tensor, state: Tensor, cell: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, B, 4H), state and cell (B, H), weight (4H, H) -> states, cells (T, B, H), gates."""
    states, cells, gates = [], [], []
    for row in x:
        i, f, g, o = (row + state @ weight.T).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        cell = f * cell + i * g
        state = o * cell.tanh()
        states.append(state)
        cells.append(cell)
        gates.append(torch.cat([i, f, g, o], 1))
    return torch.stack(states), torch.stack(cells), torch.stack(gates)


@torch.library.register_fake("cloister::lstm")
def _(x: Tensor, state: Tensor, cell: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*x.shape[:2], state.shape[1])
    return x.new_empty(shape), x.new_empty(shape), torch.empty_like(x)


@_operator
def lstm_backward(
    dstates: Tensor, dcell: Tensor, gates: Tensor, cells: Tensor, first: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, first state and first cell."""
    dgates = torch.empty_like(gates)
    dstate = torch.zeros_like(dcell)
    for t in range(len(gates) - 1, -1, -1):
        i, f, g, o = gates[t].chunk(4, 1)
        before = cells[t - 1] if t else first
        dstate = dstate + dstates[t]
        squashed = cells[t].tanh()
        dcell = dcell + dstate * o * (1 - squashed * squashed)
        dgates[t] = torch.cat(
            [
                dcell * g * i * (1 - i),
                dcell * before * f * (1 - f),
                dcell * i * (1 - g * g),
                dstate * squashed * o * (1 - o),
            ],
            1,
        )
        dcell = dcell * f
        dstate = dgates[t] @ weight
    return dgates, dstate, dcell


@torch.library.register_fake("cloister::lstm_backward")
def _(
    dstates: Tensor, dcell: Tensor, gates: Tensor, cells: Tensor, first: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(dcell), torch.empty_like(dcell)


@_operator
def gru(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (T, B, 3H), state (B, H), weight (3H, H) -> states (T, B, H), gates, inner (T, B, 3H)."""
    states, gates, inner = [], [], []
    for row in x:
        own = state @ weight.T + bias
        xr, xz, xn = row.chunk(3, 1)
        hr, hz, hn = own.chunk(3, 1)
        r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        n = (xn + r * hn).tanh()
        state = n + z * (state - n)
        states.append(state)
        gates.append(torch.cat([r, z, n], 1))
        inner.append(own)
    return torch.stack(states), torch.stack(gates), torch.stack(inner)


@torch.library.register_fake("cloister::gru")
def _(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty((*x.shape[:2], state.shape[1])), torch.empty_like(x), torch.empty_like(x)


@_operator
def gru_backward(
    dstates: Tensor, gates: Tensor, inner: Tensor, states: Tensor, first: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, by the state's part of the gates, and by the first state."""
    dx, dinner = torch.empty_like(gates), torch.empty_like(gates)
    dstate = torch.zeros_like(first)
    for t in range(len(gates) - 1, -1, -1):
        r, z, n = gates[t].chunk(3, 1)
        before = states[t - 1] if t else first
        d = dstate + dstates[t]
        dn = d * (1 - z) * (1 - n * n)
        dr = dn * inner[t].chunk(3, 1)[2] * r * (1 - r)
        dz = d * (before - n) * z * (1 - z)
        dx[t] = torch.cat([dr, dz, dn], 1)
        dinner[t] = torch.cat([dr, dz, dn * r], 1)
        dstate = d * z + dinner[t] @ weight
    return dx, dinner, dstate


@torch.library.register_fake("cloister::gru_backward")
def _(
    dstates: Tensor, gates: Tensor, inner: Tensor, states: Tensor, first: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(gates), torch.empty_like(gates), torch.empty_like(first)


def _by_weight(gradient: Tensor, first: Tensor, states: Tensor) -> Tensor:
    """``sum_t gradient_t^T state_(t-1)`` as one product."""
    before = torch.cat([first[None], states[:-1]])
    return gradient.flatten(0, 1).T @ before.flatten(0, 1)


class _Lstm(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, state: Tensor, cell: Tensor, weight: Tensor) -> Any:
        return torch.ops.cloister.lstm(x, state, cell, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, state, cell, weight = inputs
        ctx.save_for_backward(state, cell, weight, *output)

    @staticmethod
    def backward(ctx: Any, dstates: Tensor, dcells: Tensor, dgates: Tensor) -> Any:
        state, cell, weight, states, cells, gates = ctx.saved_tensors
        dx, dstate, dcell = torch.ops.cloister.lstm_backward(
            dstates, dcells[-1], gates, cells, cell, weight
        )
        return dx, dstate, dcell, _by_weight(dx, state, states)


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return torch.ops.cloister.gru(x, state, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, state, weight, _ = inputs
        ctx.save_for_backward(state, weight, *output)

    @staticmethod
    def backward(ctx: Any, dstates: Tensor, dgates: Tensor, dinner: Tensor) -> Any:
        state, weight, states, gates, inner = ctx.saved_tensors
        dx, dinner, dstate = torch.ops.cloister.gru_backward(
            dstates, gates, inner, states, state, weight
        )
        return dx, dstate, _by_weight(dinner, state, states), dinner.sum((0, 1))


def _lstm_layer(
    x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    w_ih, w_hh, *biases = weights
    bias = biases[0] + biases[1] if biases else None
    states, cells, _ = _Lstm.apply(  # type: ignore[no-untyped-call]
        F.linear(x, w_ih, bias), first[0], first[1], w_hh
    )
    return states, [states[-1], cells[-1]]


def _gru_layer(
    x: Tensor, first: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    w_ih, w_hh, *biases = weights
    b_ih, b_hh = biases or (None, x.new_zeros(w_hh.shape[0]))
    states, _, _ = _Gru.apply(  # type: ignore[no-untyped-call]
        F.linear(x, w_ih, b_ih), first[0], w_hh, b_hh
    )
    return states, [states[-1]]


def _network(
    layer: Callable[..., tuple[Tensor, list[Tensor]]],
    x: Tensor,
    first: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """All layers and directions, as ``torch.lstm`` and ``torch.gru`` define them."""
    if batch_first:
        x = x.transpose(0, 1)
    directions = 2 if bidirectional else 1
    each = 4 if has_biases else 2
    last: list[list[Tensor]] = []
    for number in range(layers):
        outputs = []
        for direction in range(directions):
            at = number * directions + direction
            given = x.flip(0) if direction else x
            states, ends = layer(
                given, [f[at] for f in first], weights[at * each : (at + 1) * each]
            )
            outputs.append(states.flip(0) if direction else states)
            last.append(ends)
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if dropout and train and number < layers - 1:
            x = F.dropout(x, dropout)
    if batch_first:
        x = x.transpose(0, 1)
    return (x, *(torch.stack(ends) for ends in zip(*last, strict=True)))


class Recurrent(TorchFunctionMode):
    """While it is active, recurrent layers go through the operators above."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Replace LSTM and GRU over padded sequences; leave everything else."""
        if function is torch._VF.lstm and _plain(args):
            x, first, weights, *rest = args
            if weights[1].shape[0] == 4 * weights[1].shape[1] and len(weights) == rest[1] * (
                2 if rest[4] else 1
            ) * (4 if rest[0] else 2):
                return _network(_lstm_layer, x, first, weights, *rest)
        if function is torch._VF.gru and _plain(args):
            x, first, weights, *rest = args
            return _network(_gru_layer, x, [first], weights, *rest)
        return function(*args, **(kwargs or {}))


def _plain(args: Sequence[Any]) -> bool:
    """Sequences of one length, (T, B, features) or batch first."""
    return len(args) == 9 and isinstance(args[0], Tensor) and args[0].ndim == 3
