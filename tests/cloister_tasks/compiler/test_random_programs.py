"""Random chains of operators over random shapes, forwards and backwards, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .compiled_function import compile_function
from .test_operators import both, in_eager

CHAINS, LENGTH = 12, 7
"""Chains that are compiled into one module, and operators in each."""
Step = Callable[[Tensor, Tensor], Tensor]
"""From the value so far and the second leaf."""


def planned(rng: np.random.Generator, x: Tensor) -> Step:
    """A random operator that suits a tensor's shape; all choices are made here."""
    rank = x.ndim
    dim = int(rng.integers(rank)) if rank else 0
    size = x.shape[dim] if rank else 1
    order = [int(d) for d in rng.permutation(rank)]
    start = int(rng.integers(size))
    stride = int(rng.integers(1, 4))
    keep = bool(rng.integers(2))
    pick: list[Step] = [
        lambda v, y: torch.tanh(v),
        lambda v, y: v * torch.sigmoid(v),
        lambda v, y: torch.where(v > 0.1, v, -0.5 * v),
        lambda v, y: v + y.sum(),
        lambda v, y: (v - v.mean()) / (1 + v.abs().amax()),
        lambda v, y: v.unsqueeze(dim),
        lambda v, y: v.reshape(-1),
    ]
    if rank:
        pick += [
            lambda v, y: v.permute(order),
            lambda v, y: v.flip(dim),
            lambda v, y: v.narrow(dim, start, size - start)[
                (slice(None),) * dim + (slice(None, None, stride),)
            ],
            lambda v, y: v * v.sum(dim, keepdim=True),
            lambda v, y: v.softmax(dim),
            lambda v, y: v.mean(dim, keepdim=keep),
            lambda v, y: v.amax(dim, keepdim=keep),
            lambda v, y: v.cumsum(dim),
            lambda v, y: torch.cat([v, v.flip(dim) * 2], dim),
            lambda v, y: torch.stack([v, v.exp()], dim),
            lambda v, y: v.roll(1, dim),
            lambda v, y: v.index_select(dim, torch.tensor([start, 0, start])),
            lambda v, y: torch.nn.functional.pad(v, (1, 2)),
        ]
        if size == 1:
            wider = [3 if d == dim else n for d, n in enumerate(x.shape)]
            pick += [lambda v, y: v.squeeze(dim), lambda v, y: v.expand(wider)]
        divisors = [n for n in range(2, size) if size % n == 0]
        if divisors:
            factor = int(rng.choice(divisors))
            pick.append(lambda v, y: v.unflatten(dim, (factor, -1)))
    if rank > 1:
        pick += [
            lambda v, y: v.transpose(0, -1).flatten(0, 1),
            lambda v, y: v @ v.transpose(-1, -2),
            lambda v, y: v.transpose(-1, -2) @ v,
            lambda v, y: v.permute(order).contiguous().sum(0),
        ]
    return pick[int(rng.integers(len(pick)))]


def chain(
    seed: tuple[int, ...],
) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[Tensor, Tensor]]:
    """A random function of two leaves, and the leaves."""
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in rng.integers(1, 6, rng.integers(0, 4))]
    leaves = (
        torch.from_numpy(rng.standard_normal(shape).astype("f4")).reshape(shape),
        torch.from_numpy(rng.standard_normal(int(rng.integers(1, 20))).astype("f4")),
    )
    steps: list[Step] = []
    value = leaves[0]
    while len(steps) < LENGTH:
        step = planned(rng, value)
        following = step(value, leaves[1])
        if 0 < following.numel() <= 600 and following.ndim <= 5:
            # Values that grow would drown all others in one common tolerance.
            scale = 1 / max(1.0, float(following.abs().max()))
            steps.append(lambda v, y, step=step, scale=scale: step(v, y) * scale)
            value = following * scale

    def run(x: Tensor, y: Tensor) -> Tensor:
        kept = x
        for step in steps:
            kept = step(kept, y)
        return kept

    return run, leaves


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**32))
def test_chains(seed):
    chains = [chain((seed, number)) for number in range(CHAINS)]

    def every(*arguments: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        for number, (function, _) in enumerate(chains):
            found += both(function)(*arguments[2 * number : 2 * number + 2])
        return found

    leaves: list[Any] = [leaf for _, given in chains for leaf in given]
    found = compile_function(every, *leaves)(*(leaf.numpy() for leaf in leaves))
    assert len(found) == 3 * CHAINS
    for number, case in enumerate(chains):
        for one, exact in zip(
            found[3 * number : 3 * number + 3], in_eager(case, both, torch.float64), strict=True
        ):
            # Chains may cancel to nothing, so errors are measured by the size of their leaves.
            size = max(1.0, float(np.abs(exact).max()))
            np.testing.assert_allclose(one, exact, rtol=1e-3, atol=1e-4 * size)
