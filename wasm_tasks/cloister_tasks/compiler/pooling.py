"""The shape of a pooling, as ``kernels/pooling.h`` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod
from typing import Self


@dataclass(frozen=True)
class Pool2d:
    """``struct pool2d``: windows over planes, as for :func:`torch.nn.functional.max_pool2d`."""

    planes: int
    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    pad_y: int
    pad_x: int
    dilation_y: int
    dilation_x: int
    out_height: int
    out_width: int

    @classmethod
    def of(
        cls,
        images: Sequence[int],
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        ceil_mode: bool = False,
    ) -> Self:
        """Of images (..., H, W); pairs are (y, x), the stride is the kernel's size by default."""
        *outer, height, width = images
        stride = stride or kernel
        out = [
            _results(*sizes, ceil_mode=ceil_mode)
            for sizes in zip((height, width), kernel, stride, padding, dilation, strict=True)
        ]
        return cls(
            *(prod(outer), height, width, *kernel),
            *(*stride, *padding, *dilation, *out),
        )

    def literal(self) -> str:
        """The shape as a C expression."""
        return f"(struct pool2d){{{', '.join(map(str, astuple(self)))}}}"


def _results(
    size: int, kernel: int, stride: int, pad: int, dilation: int, *, ceil_mode: bool
) -> int:
    """Windows along one direction; the last one begins inside or in the padding before it."""
    room = size + 2 * pad - dilation * (kernel - 1) - 1
    results = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    return results - 1 if ceil_mode and (results - 1) * stride >= size + pad else results
