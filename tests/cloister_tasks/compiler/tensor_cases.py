"""Functions of tensors to compile: arithmetic, reductions, views and indexing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

INF, NAN = float("inf"), float("nan")


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def between(low: float, high: float, *shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers within an open interval."""
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * (0.001 + 0.998 * uniform)


def whole(low: int, high: int, *shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from low to high - 1."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def positive(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from 0.1 to 4."""
    return between(0.1, 4, *shape, seed=seed)


def _written(x: Tensor) -> Tensor:
    y = x.clone()
    y[1] = y[0] * 3
    y[:, ::2] += 1
    return y


def _once(rows: int, size: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    lines = [torch.randperm(size, generator=generator)[:count] for _ in range(rows)]
    return torch.stack(lines)


Case = tuple[Callable[..., Any], tuple[Tensor, ...]]

X, Y, COLUMN, ROW = normal(3, 5), normal(3, 5, seed=1), normal(3, 1, seed=2), normal(5, seed=3)
ODD = torch.tensor([NAN, INF, -INF, 0.0, -0.0, 1.5, -2.5, 2.5, 0.5, -0.5])
INTEGERS, DIVISORS = whole(-9, 10, 4, 5), whole(1, 4, 4, 5, seed=1) * (whole(0, 2, 4, 5) * 2 - 1)
BOOLEANS = whole(0, 2, 3, 5).bool()

UNARY: dict[str, Case] = {
    name: (function, (argument,))
    for name, (function, argument) in {
        "neg": (torch.neg, X),
        "abs": (torch.abs, X),
        "sign": (torch.sign, X),
        "square": (torch.square, X),
        "reciprocal": (torch.reciprocal, positive(3, 5)),
        "sqrt": (torch.sqrt, positive(3, 5)),
        "rsqrt": (torch.rsqrt, positive(3, 5)),
        "relu": (torch.relu, X),
        "floor": (torch.floor, X * 3),
        "ceil": (torch.ceil, X * 3),
        "trunc": (torch.trunc, X * 3),
        "round": (torch.round, torch.arange(-8, 9) / 2),
        "frac": (torch.frac, X * 3),
        "exp": (torch.exp, X * 4),
        "exp2": (torch.exp2, X * 4),
        "expm1": (torch.expm1, X),
        "log": (torch.log, positive(3, 5)),
        "log2": (torch.log2, positive(3, 5)),
        "log10": (torch.log10, positive(3, 5)),
        "log1p": (torch.log1p, positive(3, 5)),
        "sin": (torch.sin, X * 4),
        "cos": (torch.cos, X * 4),
        "tan": (torch.tan, X),
        "asin": (torch.asin, between(-1, 1, 3, 5)),
        "acos": (torch.acos, between(-1, 1, 3, 5)),
        "atan": (torch.atan, X * 3),
        "sinh": (torch.sinh, X),
        "cosh": (torch.cosh, X),
        "tanh": (torch.tanh, X),
        "asinh": (torch.asinh, X * 3),
        "acosh": (torch.acosh, positive(3, 5) + 1),
        "atanh": (torch.atanh, between(-0.99, 0.99, 3, 5)),
        "sigmoid": (torch.sigmoid, X * 3),
        "erf": (torch.erf, X),
        "erfc": (torch.erfc, X),
        "erfinv": (torch.erfinv, between(-0.99, 0.99, 3, 5)),
        "logit": (torch.logit, between(0.02, 0.98, 3, 5)),
        "sinc": (torch.sinc, X),
        "deg2rad": (torch.deg2rad, X),
        "logsigmoid": (nnf.logsigmoid, X * 3),
        "softplus": (nnf.softplus, X * 9),
        "silu": (nnf.silu, X),
        "mish": (nnf.mish, X),
        "gelu": (nnf.gelu, X * 2),
        "gelu_tanh": (lambda x: nnf.gelu(x, approximate="tanh"), X * 2),
        "elu": (nnf.elu, X),
        "selu": (nnf.selu, X),
        "celu": (lambda x: nnf.celu(x, 0.7), X),
        "leaky_relu": (nnf.leaky_relu, X),
        "relu6": (nnf.relu6, X * 6),
        "hardtanh": (nnf.hardtanh, X * 2),
        "hardswish": (nnf.hardswish, X * 3),
        "hardsigmoid": (nnf.hardsigmoid, X * 3),
        "softsign": (nnf.softsign, X),
        "tanhshrink": (nnf.tanhshrink, X),
        "softshrink": (nnf.softshrink, X),
        "hardshrink": (nnf.hardshrink, X),
        "threshold": (lambda x: nnf.threshold(x, 0.2, -3), X),
        "clamp": (lambda x: x.clamp(-0.5, 0.7), X),
        "clamp_min": (lambda x: x.clamp(min=0.1), X),
        "pow_0": (lambda x: x**0, X),
        "pow_2": (lambda x: x**2, X),
        "pow_3": (lambda x: x**3, X),
        "pow_4": (lambda x: x**4, X),
        "pow_5": (lambda x: x**5, X),
        "pow_half": (lambda x: x**0.5, positive(3, 5)),
        "pow_minus_half": (lambda x: x**-0.5, positive(3, 5)),
        "pow_minus_1": (lambda x: x**-1, positive(3, 5)),
        "pow_real": (lambda x: x**1.7, positive(3, 5)),
        "rpow": (lambda x: 1.7**x, X),
        "rsub": (lambda x: 3 - x, X),
        "rdiv": (lambda x: 3 / x, positive(3, 5)),
        "prelu_scalar": (lambda x: nnf.prelu(x, x.new_full((1,), 0.2)), X),
        "glu": (lambda x: nnf.glu(x, 0), normal(4, 5)),
    }.items()
}
SPECIAL: dict[str, Case] = {
    # no number, infinities and signed zeros; forwards
    name: (function, (ODD,))
    for name, function in {
        "nan_to_num": lambda x: torch.nan_to_num(x, 7, 8, 9),
        "relu": torch.relu,
        "clamp": lambda x: x.clamp(-1, 1),
        "sign": torch.sign,
        "exp": torch.exp,
        "log": lambda x: torch.log(x.abs()),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "sqrt": torch.sqrt,
        "erf": torch.erf,
        "maximum": lambda x: torch.maximum(x, x.flip(0)),
        "minimum": lambda x: torch.minimum(x, x.flip(0)),
        "fmax": lambda x: torch.fmax(x, x.flip(0)),
        "fmin": lambda x: torch.fmin(x, x.flip(0)),
        "isnan": torch.isnan,
        "isinf": torch.isinf,
        "isfinite": torch.isfinite,
        "eq": lambda x: x == x.flip(0),
        "ne": lambda x: x != x.flip(0),
        "lt": lambda x: x < x.flip(0),
        "ge": lambda x: x >= x.flip(0),
        "amax": lambda x: x.amax(),
        "argmax": lambda x: x.argmax(),
        "argmin": lambda x: x[3:].argmin(),
        "amin": lambda x: x[3:].amin(),
        "any": lambda x: x[3:5].any(),
        "all": lambda x: x.all(),
        "bool": lambda x: x.bool(),
        "to_int": lambda x: x[3:].int(),
        "softmax": lambda x: x[3:].softmax(0),
        "softmax_masked": lambda x: x[2:].softmax(0),
        "reciprocal": torch.reciprocal,
        "pow": lambda x: x**3.5,
    }.items()
}
BINARY: dict[str, Case] = {
    "add": (torch.add, (X, Y)),
    "add_alpha": (lambda x, y: torch.add(x, y, alpha=-2.5), (X, Y)),
    "sub_broadcast": (torch.sub, (COLUMN, ROW)),
    "sub_alpha": (lambda x, y: torch.sub(x, y, alpha=3), (X, ROW)),
    "mul_broadcast": (torch.mul, (X, COLUMN)),
    "mul_scalar_tensor": (torch.mul, (X, normal())),
    "div": (torch.div, (X, positive(3, 5))),
    "div_broadcast": (torch.div, (ROW, positive(3, 1))),
    "transposed": (lambda x, y: x.T * y, (X, normal(5, 3))),
    "expanded": (lambda x, y: x.expand(3, 5) + y, (COLUMN, X)),
    "maximum": (torch.maximum, (X, Y)),
    "maximum_ties": (torch.maximum, (X, X.clone())),
    "minimum": (torch.minimum, (X, ROW)),
    "fmax": (torch.fmax, (X, Y)),
    "fmod": (torch.fmod, (X * 5, positive(3, 5))),
    "remainder": (torch.remainder, (X * 5, positive(3, 5))),
    "remainder_negative": (lambda x: x % -1.3, (X * 5,)),
    "copysign": (torch.copysign, (X, Y)),
    "atan2": (torch.atan2, (X, Y)),
    "hypot": (torch.hypot, (X, Y)),
    "pow": (torch.pow, (positive(3, 5), Y)),
    "xlogy": (torch.xlogy, (X, positive(3, 5))),
    "logaddexp": (torch.logaddexp, (X, Y)),
    "lerp": (torch.lerp, (X, Y, between(0, 1, 3, 5))),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=0.3), (X, Y, ROW)),
    "addcdiv": (lambda x, y, z: torch.addcdiv(x, y, z, value=0.3), (X, Y, positive(3, 5))),
    "where": (lambda x, y: torch.where(x > 0.1, x, y), (X, COLUMN)),
    "where_number": (lambda x: torch.where(x > 0.1, x, 2.0), (X,)),
    "masked_fill": (lambda x, m: x.masked_fill(m, -7.0), (X, BOOLEANS)),
    "clamp_tensor": (torch.clamp, (X, Y - 0.5, Y + 0.5)),
    "floor_divide": (lambda x, y: x.detach() // y.detach(), (X * 5, positive(3, 5))),
    "div_trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (X * 5, positive(3, 5))),
    "prelu": (nnf.prelu, (normal(2, 3, 4), normal(3, seed=1))),
}
WHOLE: dict[str, Case] = {
    "add": (torch.add, (INTEGERS, DIVISORS)),
    "mul": (torch.mul, (INTEGERS, DIVISORS)),
    "floor_divide": (torch.floor_divide, (INTEGERS, DIVISORS)),
    "div_trunc": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (INTEGERS, DIVISORS)),
    "true_divide": (torch.true_divide, (INTEGERS, DIVISORS)),
    "remainder": (torch.remainder, (INTEGERS, DIVISORS)),
    "fmod": (torch.fmod, (INTEGERS, DIVISORS)),
    "pow": (lambda x: x**3, (INTEGERS,)),
    "abs": (torch.abs, (INTEGERS,)),
    "sign": (torch.sign, (INTEGERS,)),
    "maximum": (torch.maximum, (INTEGERS, DIVISORS)),
    "and": (torch.bitwise_and, (INTEGERS, DIVISORS)),
    "or": (torch.bitwise_or, (INTEGERS, DIVISORS)),
    "xor": (torch.bitwise_xor, (INTEGERS, DIVISORS)),
    "not": (torch.bitwise_not, (INTEGERS,)),
    "eq": (torch.eq, (INTEGERS, DIVISORS)),
    "mixed": (lambda x, y: x * y + x / 2, (INTEGERS, normal(4, 5))),
    "sum": (lambda x: x.sum(0), (INTEGERS,)),
    "argmax": (lambda x: x.argmax(1), (INTEGERS,)),
    "amin": (lambda x: x.amin(1), (INTEGERS,)),
    "cumsum": (lambda x: x.cumsum(1), (INTEGERS,)),
    "uint8": (lambda x: (x * 50).to(torch.uint8) + 1, (INTEGERS.abs(),)),
    "logical": (lambda x, y: (x > 0) & ~(y > 0) | (x == y) ^ (y < 2), (INTEGERS, DIVISORS)),
    "bool_sum": (lambda x: (x > 0).sum(1), (INTEGERS,)),
    "one_hot": (lambda x: nnf.one_hot(x.abs(), 11), (INTEGERS,)),
    "arange": (lambda x: x + torch.arange(3, 18, 3), (INTEGERS,)),
}
REDUCTIONS: dict[str, Case] = {
    name: (function, (normal(3, 4, 5),))
    for name, function in {
        "sum": torch.sum,
        "sum_0": lambda x: x.sum(0),
        "sum_1": lambda x: x.sum(1, keepdim=True),
        "sum_02": lambda x: x.sum((0, -1)),
        "mean": torch.mean,
        "mean_12": lambda x: x.mean((1, 2)),
        "mean_last": lambda x: x.mean(-1, keepdim=True),
        "prod": torch.prod,
        "prod_1": lambda x: x.prod(1),
        "amax": lambda x: x.amax(1),
        "amin_02": lambda x: x.amin((0, 2)),
        "amax_ties": lambda x: x.round().amax(1),
        "max_dim": lambda x: x.max(1),
        "min_dim": lambda x: x.min(-1, keepdim=True),
        "argmax": lambda x: x.argmax(2),
        "argmax_ties": lambda x: x.round().argmax(1, keepdim=True),
        "argmin_all": lambda x: x.argmin(),
        "any": lambda x: (x > 1).any(1),
        "all": lambda x: (x > -1).all(2),
        "var": lambda x: x.var(1),
        "var_0": lambda x: x.var((0, 2), correction=0),
        "std": lambda x: x.std(2, keepdim=True),
        "var_mean": lambda x: torch.var_mean(x, 1),
        "logsumexp": lambda x: x.logsumexp(1),
        "norm": torch.linalg.vector_norm,
        "norm_1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
        "norm_inf": lambda x: torch.linalg.vector_norm(x, INF, dim=2),
        "norm_3": lambda x: x.norm(3, dim=2),
        "cumsum": lambda x: x.cumsum(1),
        "cumsum_last": lambda x: x.cumsum(-1),
        "softmax": lambda x: x.softmax(1),
        "softmax_last": lambda x: (x * 20).softmax(-1),
        "log_softmax": lambda x: (x * 20).log_softmax(1),
        "softmin": lambda x: nnf.softmin(x, 0),
        "of_view": lambda x: x.transpose(0, 2)[1:, ::2].sum(1),
        "of_expression": lambda x: (x.exp() * x).mean(0),
        "size_one": lambda x: x[:1].sum(0) + x[:, :1].mean(1).sum(),
        "empty": lambda x: x[:, :0].sum(1),
    }.items()
}
VIEWS: dict[str, Case] = {
    name: (function, (normal(4, 3, 6),))
    for name, function in {
        "view": lambda x: x.view(2, 2, 18),
        "reshape_copy": lambda x: x.transpose(0, 1).reshape(9, 8),
        "permute": lambda x: x.permute(2, 0, 1),
        "t": lambda x: x[0].t(),
        "movedim": lambda x: x.movedim(0, 2),
        "expand": lambda x: x[:, :1].expand(2, 4, 3, 6),
        "unsqueeze": lambda x: x.unsqueeze(1).unsqueeze(-1),
        "squeeze": lambda x: x[:1, :, :1].squeeze(),
        "squeeze_dim": lambda x: x[:1].squeeze(0),
        "select": lambda x: x[:, -2],
        "slice": lambda x: x[1:, ::2, -5:-1:3],
        "empty_slice": lambda x: x[2:2],
        "split": lambda x: x.split([1, 2, 3], dim=2),
        "split_even": lambda x: x.split(3),
        "chunk": lambda x: x.chunk(2, 1),
        "unbind": lambda x: x.unbind(1),
        "flip": lambda x: x.flip(0, 2),
        "roll": lambda x: x.roll((1, -2), (0, 2)),
        "cat": lambda x: torch.cat([x, x[:1] * 2, x.flip(0)]),
        "cat_last": lambda x: torch.cat([x, x.exp()], -1),
        "stack": lambda x: torch.stack([x, x * 2], 1),
        "pad": lambda x: nnf.pad(x, (1, 2, 0, 3), value=1.5),
        "pad_negative": lambda x: nnf.pad(x, (-1, 2, 1, -2)),
        "pad_reflect": lambda x: nnf.pad(x, (2, 1), mode="reflect"),
        "pad_replicate": lambda x: nnf.pad(x, (2, 1), mode="replicate"),
        "pad_circular": lambda x: nnf.pad(x, (2, 1), mode="circular"),
        "select_scatter": lambda x: torch.select_scatter(x, x[0] * 2, 0, 1),
        "slice_scatter": lambda x: torch.slice_scatter(x, x[:2] * 2, 0, 1, 4, 2),
        "in_place": lambda x: _written(x),
        "repeat": lambda x: x.repeat(2, 1, 3),
        "tile": lambda x: x.tile(2),
        "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
        "diagonal": lambda x: x.diagonal(1, 0, 2),
        "diag_embed": lambda x: x[0].diag_embed(),
        "tril": lambda x: x.tril(1),
        "triu": lambda x: x.triu(-1),
        "unfold": lambda x: x.unfold(2, 3, 2),
        "unfold_image": lambda x: nnf.unfold(x[None], (2, 3), padding=1, stride=2),
        "rot90": lambda x: x.rot90(),
        "narrow": lambda x: x.narrow(2, 1, 3),
        "flatten": lambda x: x.transpose(1, 2).flatten(1),
        "unflatten": lambda x: x.unflatten(2, (2, 3)),
        "einsum": lambda x: torch.einsum("abc,adc->bd", x, x),
        "pixel_shuffle": lambda x: nnf.pixel_shuffle(x, 2),
        "pixel_unshuffle": lambda x: nnf.pixel_unshuffle(x[:, None, :, :].reshape(4, 1, 3, 6), 3),
        "channel_shuffle": lambda x: nnf.channel_shuffle(x[None], 2),
        "zeros_like": lambda x: torch.zeros_like(x) + torch.ones_like(x) * x,
        "new_full": lambda x: x.new_full((3, 6), 2.5) * x,
    }.items()
}


INDEXING: dict[str, Case] = {
    "embedding": (nnf.embedding, (whole(0, 7, 3, 4), normal(7, 5))),
    "embedding_padding": (
        lambda i, w: nnf.embedding(i, w, padding_idx=2),
        (whole(0, 7, 3, 4), normal(7, 5)),
    ),
    "gather": (lambda x, i: x.gather(1, i), (normal(4, 6), whole(0, 6, 4, 3))),
    "gather_0": (lambda x, i: x.gather(0, i), (normal(4, 6), whole(0, 4, 7, 5))),
    "take_along_dim": (
        lambda x: torch.take_along_dim(x, x.argmax(1, keepdim=True), 1),
        (normal(4, 6),),
    ),
    "scatter": (lambda x, i, s: x.scatter(1, i, s), (normal(4, 6), _once(4, 6, 3), normal(4, 3))),
    "scatter_value": (lambda x, i: x.scatter(1, i, 2.0), (normal(4, 6), whole(0, 6, 4, 3))),
    "scatter_add": (
        lambda x, i, s: x.scatter_add(1, i, s),
        (normal(4, 6), whole(0, 6, 4, 9), normal(4, 9)),
    ),
    "index_select": (lambda x, i: x.index_select(1, i), (normal(4, 6), whole(0, 6, 9))),
    "index": (lambda x, i: x[i], (normal(4, 6), whole(-4, 4, 2, 3))),
    "index_1": (lambda x, i: x[:, i], (normal(4, 6), whole(0, 6, 5))),
    "index_pair": (
        lambda x, i, j: x[i, j],
        (normal(4, 6, 2), whole(0, 4, 3), whole(0, 6, 3, seed=1)),
    ),
    "index_apart": (
        lambda x, i, j: x[i, :, j],
        (normal(4, 6, 5), whole(0, 4, 3), whole(0, 5, 3, seed=1)),
    ),
    "index_put": (
        lambda x, i, v: x.index_put((i,), v, accumulate=True),
        (normal(4, 6), whole(0, 4, 9), normal(9, 6)),
    ),
    "index_add": (
        lambda x, i, v: x.index_add(0, i, v),
        (normal(4, 6), whole(0, 4, 9), normal(9, 6)),
    ),
    "embedding_bag": (
        lambda i, w: nnf.embedding(i, w).mean(1),
        (whole(0, 7, 3, 4), normal(7, 5)),
    ),
}
