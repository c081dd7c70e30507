"""What the compiler cannot do, said with the operator and the line of the model it came from."""

from __future__ import annotations

import traceback
from itertools import pairwise
from pathlib import Path

import torch
from torch.fx import Node

from cloister_tasks.errors import BuildError

INSTEAD = {
    "sort": "max, min or argmax over a dimension, or sort the rows before they are given",
    "topk": "max or argmax over a dimension, masking what was taken with torch.where",
    "argsort": "argmax, or sort the rows before they are given",
    "median": "mean, or a quantile computed outside the model",
    "unique": "an embedding or a one-hot comparison over all values",
    "bincount": "a one-hot comparison and a sum",
    "histc": "comparisons and sums",
    "multinomial": "the Gumbel trick: argmax of logits minus log(-log(torch.rand_like(logits)))",
    "grid_sampler_2d": "a fixed interpolation, by indexing with constant tensors",
    "_fft_r2c": "a product with a constant matrix of cosines and sines",
    "_fft_c2c": "a product with a constant matrix of cosines and sines",
    "linalg_inv_ex": "a linear solve outside the model, given as an input or a buffer",
    "linalg_qr": "a decomposition outside the model, given as a buffer",
    "_linalg_svd": "a decomposition outside the model, given as a buffer",
    "_linalg_eigh": "a decomposition outside the model, given as a buffer",
    "_embedding_bag": "nn.Embedding and a sum or mean over the dimension of the bag",
    "convolution": "convolutions over one or two dimensions",
    "max_pool3d_with_indices": "pooling over two dimensions",
}
"""What to use in place of operators that people ask for and the compiler does not know."""

_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)
"""Folders of code that is not the user's model."""


class Unsupported(BuildError):
    """A model uses something the compiler has no kernel for; nothing was approximated instead."""

    def __init__(self, node: Node, reason: str):
        self.operator = str(node.target)
        self.place = place(node)
        name = self.operator.removeprefix("aten.").partition(".")[0]
        where = f"\n{self.place}" if self.place else ""
        if name in INSTEAD:
            where = f"; use {INSTEAD[name]}{where}"
        super().__init__(f"{self.operator}: {reason}{where}")


def place(node: Node) -> str:
    """The innermost line of the model that led to a node, as a traceback shows it."""
    lines = (node.meta.get("stack_trace") or "").rstrip().split("\n")
    frames = [
        (header, code) for header, code in pairwise(lines) if header.lstrip().startswith("File ")
    ]
    own = [f for f in frames if not any(f'"{folder}/' in f[0] for folder in _NOT_THE_USERS)]
    return "\n".join(own[-1]) if own else ""


def culprit(error: BaseException) -> str:
    """The innermost line of the user's code that an error passed through, as `place` shows it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(Path(frame.filename).is_relative_to(folder) for folder in _NOT_THE_USERS)
    ]
    return traceback.format_list(frames[-1:])[0].rstrip() if frames else ""
