"""The shape of a convolution, as ``kernels/convolution.h`` takes it, and the scratch it needs.

The kernels cut their work into blocks by a plan made of the shape alone; the plans are made here
again, to reserve exactly the memory that they use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from math import gcd
from typing import Self

CORRELATION_DEPTH = 256
"""Products summed up by one tile; the constants have the names they have in C."""
CORRELATION_PIXELS = 1024
CORRELATION_RESULTS = 131072
CORRELATION_COPY = 262144
CORRELATION_IDLE = 16
CORRELATION_WEIGHTS = 524288
GRADIENT_PIXELS = 512
GRADIENT_ERRORS = 524288
GRADIENT_COPY = 65536
DEPTHWISE_COPY = 8192
DEPTHWISE_TAPS = 5
WINOGRAD_WEIGHTS = 524288
WINOGRAD_BLOCK = 393216
WINOGRAD_COPY = 16384
WINOGRAD_FLOATS = 1500000
WINOGRAD_APART = 16
WINOGRAD_TILES = 40


@dataclass(frozen=True)
class Conv2d:
    """``struct conv2d``: images NCHW, weights OIHW, as for :func:`torch.nn.functional.conv2d`.

    The sizes before and after are independent: of several heights that give the same
    ``out_height`` the backward pass has to know which one (``output_padding``).
    """

    batch: int
    groups: int
    channels: int
    height: int
    width: int
    outputs: int
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
        weights: Sequence[int],
        *,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> Self:
        """Of images (N, C, H, W) and weights (O, C / groups, KH, KW); pairs are (y, x)."""
        batch, channels, *size = images
        outputs, _, *kernel = weights
        out = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
        ]
        return cls(
            *(batch, groups, channels, *size, outputs, *kernel),
            *(*stride, *padding, *dilation, *out),
        )

    def literal(self) -> str:
        """The shape as a C expression."""
        return f"(struct conv2d){{{', '.join(map(str, astuple(self)))}}}"

    @property
    def depthwise(self) -> bool:
        """Every channel is convolved on its own, by kernels without matrices."""
        return self.groups == self.channels and self.groups > 1

    @property
    def filtered(self) -> tuple[bool, bool, bool]:
        """Which of forward, input gradient and weight gradient minimal filtering does."""
        axes = self._axes()
        if self.depthwise:
            return False, False, False
        return (
            _filtered(axes, self._sizes()) > 0,
            self._unstrided and any(_filtered(p, self._sizes(back=True)) for p in self._phases()),
            _filtered_gradient(axes, self._sizes()) > 0,
        )

    def workspace_forward(self) -> int:
        """Floats of scratch that ``conv2d`` needs."""
        down, across = self._axes()
        if self.depthwise:
            return down.taps * across.taps + _depthwise_copies(down, across, self.channels)[1]
        return _filtered((down, across), self._sizes()) or _correlation(
            (down, across), self._sizes(), rows_in_place=True
        )

    def workspace_input_gradient(self) -> int:
        """Floats of scratch that ``conv2d_input_gradient`` needs."""
        return max((self._phase(down, across) for down, across in self._phases()), default=0)

    def workspace_weight_gradient(self) -> int:
        """Floats of scratch that ``conv2d_weight_gradient`` needs."""
        down, across = self._axes()
        if self.depthwise:
            taps = down.taps * across.taps
            depth, copies = _depthwise_copies(down, across, self.channels)
            spread = (down.results - 1) * _row(down, across) + across.results
            sums = depth * self.outputs // self.channels * _round_up(taps, DEPTHWISE_TAPS)
            return taps + 2 * (_round_up(spread, 4) if copies else spread) + sums + copies
        return _filtered_gradient((down, across), self._sizes()) or _weight_gradient(
            (down, across), self._sizes()
        )

    @property
    def _unstrided(self) -> bool:
        return self.stride_x == 1 and self.stride_y == 1

    def _sizes(self, *, back: bool = False) -> tuple[int, int, int]:
        """Images, and channels and outputs of a group; on the way back these two change places."""
        channels, outputs = self.channels // self.groups, self.outputs // self.groups
        return (self.batch, outputs, channels) if back else (self.batch, channels, outputs)

    def _axes(self) -> tuple[_Axis, _Axis]:
        rows = (self.height, self.out_height, self.stride_y, self.kernel_height)
        columns = (self.width, self.out_width, self.stride_x, self.kernel_width)
        return (
            _Axis(*rows, offset=-self.pad_y, offset_step=self.dilation_y),
            _Axis(*columns, offset=-self.pad_x, offset_step=self.dilation_x),
        )

    def _phases(self) -> Iterator[tuple[_Axis, _Axis]]:
        """Both axes for each remainder of the inputs' place modulo the stride."""
        rows = (self.kernel_height, self.stride_y, self.pad_y, self.dilation_y)
        columns = (self.kernel_width, self.stride_x, self.pad_x, self.dilation_x)
        downs = [
            _gradient_axis(self.out_height, self.height, *rows, f) for f in range(self.stride_y)
        ]
        acrosses = [
            _gradient_axis(self.out_width, self.width, *columns, f) for f in range(self.stride_x)
        ]
        for down, across in product(downs, acrosses):
            if down and across:
                yield down, across

    def _phase(self, down: _Axis, across: _Axis) -> int:
        if self.depthwise and self.outputs == self.channels:
            stage = 0 if self.stride_x == 1 else down.results * across.results
            copies = _depthwise_copies(down, across, self.channels)[1]
            return 3 * down.taps * across.taps + stage + copies
        sizes = self._sizes(back=True)
        filtered = _filtered((down, across), sizes) if self._unstrided else 0
        return filtered or _correlation((down, across), sizes, rows_in_place=self._unstrided)


@dataclass(frozen=True)
class _Axis:
    """``struct axis``, without the numbers of the taps."""

    source: int
    results: int
    step: int
    taps: int
    offset: int
    offset_step: int

    @property
    def lowest(self) -> int:
        return self.offset + min(0, (self.taps - 1) * self.offset_step)

    @property
    def span(self) -> int:
        return (self.taps - 1) * abs(self.offset_step) + 1

    @property
    def phases(self) -> int:
        return min(self.step, self.span)

    def length(self, results: int) -> int:
        return results + (self.span - 1) // self.step

    @property
    def in_place(self) -> bool:
        last = self.lowest + self.results + self.span - 1
        return self.step == 1 and self.lowest >= 0 and last <= self.source


def _gradient_axis(
    errors: int, inputs: int, taps: int, stride: int, pad: int, dilation: int, phase: int
) -> _Axis | None:
    """``conv_gradient_axis``; None if nothing is to be done."""
    seen = [t for t in range(taps) if (phase + pad - t * dilation) % stride == 0]
    if not seen or inputs <= phase:
        return None
    period = stride // gcd(stride, dilation)
    return _Axis(
        source=errors,
        results=_quotient_up(inputs - phase, stride),
        step=1,
        taps=len(seen),
        offset=(phase + pad - seen[0] * dilation) // stride,
        offset_step=-(period * dilation // stride),
    )


def _row(down: _Axis, across: _Axis) -> int:
    """``window_of(...).row``: floats from one row of a source to the next."""
    if down.in_place and across.in_place:
        return across.source
    return across.phases * across.length(across.results)


def _plane(down: _Axis, across: _Axis, rows: int) -> int:
    """``window_of(...).plane``: floats of a copied channel; 0 if images are read in place."""
    if down.in_place and across.in_place:
        return 0
    return down.phases * down.length(rows) * _row(down, across)


def _depthwise_copies(down: _Axis, across: _Axis, channels: int) -> tuple[int, int]:
    """Channels of a block, and the floats of their copies."""
    plane = _plane(down, across, down.results)
    room = DEPTHWISE_COPY // (plane or down.source * across.source)
    depth = min(max(room, 1), channels)
    return depth, depth * plane + 4 if plane else 0


def _correlation(
    axes: tuple[_Axis, _Axis], sizes: tuple[int, int, int], *, rows_in_place: bool
) -> int:
    """``correlation_plan(...).floats``; ``sizes`` are images, channels and outputs."""
    (down, across), (images, channels, outputs) = axes, sizes
    taps, padded = down.taps * across.taps, _round_up(outputs, 4)
    pixels = down.results * across.results
    aim = min(max(CORRELATION_RESULTS // outputs, 256), CORRELATION_PIXELS)
    rows, together = _blocks(images, down.results, across.results, aim)
    idle = _round_up(pixels, 8) - pixels
    folded = together > 1 and (
        not rows_in_place or idle * channels * taps > CORRELATION_IDLE * pixels
    )
    plane = _plane(down, across, rows)
    copies = (together if folded else 1) if plane else 0
    depth = _quotient_up(channels, _quotient_up(channels * taps, CORRELATION_DEPTH))
    if depth * copies * plane > CORRELATION_COPY:
        depth = max(1, CORRELATION_COPY // (copies * plane))
    resident = padded * channels * taps <= CORRELATION_WEIGHTS
    return (
        padded * taps * (channels if resident else depth)
        + 8 * outputs  # bias
        + 8 * depth * taps  # a panel
        + 2 * depth * taps  # places of taps, in images and in weights
        + (together if folded else 1) * rows * across.results  # places of results
        + (copies * depth * plane + 8 if copies else 0)
        + (0 if rows_in_place and not folded else outputs * together * rows * across.results)
    )


def _weight_gradient(axes: tuple[_Axis, _Axis], sizes: tuple[int, int, int]) -> int:
    """``weight_gradient_plan(...).floats``; ``sizes`` are images, channels and outputs."""
    (down, across), (images, channels, outputs) = axes, sizes
    aim = min(max(GRADIENT_ERRORS // outputs, 64), GRADIENT_PIXELS)
    rows, together = _blocks(images, down.results, across.results, aim)
    pixels = together * rows * across.results
    part = _quotient_up(pixels, _quotient_up(pixels, aim))
    plane = _plane(down, across, rows)
    depth = channels
    if depth * together * plane > GRADIENT_COPY:
        depth = GRADIENT_COPY // (together * plane) & ~7 or min(8, channels)
    return (
        _round_up(outputs, 4) * part
        + 8 * part  # a panel
        + depth * down.taps * across.taps  # places of taps
        + pixels  # places of results
        + together * depth * plane
    )


@dataclass(frozen=True)
class _Source:
    """``struct winograd_source``: how the tiles of 2 x 2 results are cut into blocks."""

    images: int
    rows: int
    columns: int
    blocks: int
    copy: int

    @classmethod
    def of(cls, axes: tuple[_Axis, _Axis], images: int, channels: int, aim: int) -> Self:
        down, across = (replace(a, results=_round_up(a.results, 2)) for a in axes)
        all_rows, columns = down.results // 2, across.results // 2
        rows, together = _blocks(images, all_rows, columns, max(8, aim))
        copy = together * _plane(down, across, 2 * rows)
        depth = min(channels, max(8, WINOGRAD_COPY // copy & ~7)) if copy else 0
        blocks = _quotient_up(images, together) * _quotient_up(all_rows, rows)
        return cls(together, rows, columns, blocks, depth * copy)

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.images * self.rows * self.columns


def _filters(axes: tuple[_Axis, _Axis]) -> bool:
    down, across = axes
    return down.taps == across.taps in (3, 5) and all(
        a.step == 1 and abs(a.offset_step) == 1 for a in axes
    )


def _points(axes: tuple[_Axis, _Axis]) -> int:
    """Products for a tile: the square of ``winograd_points``."""
    return 16 if axes[0].taps == 3 else 49


def _filtered(axes: tuple[_Axis, _Axis], sizes: tuple[int, int, int]) -> int:
    """``winograd_plan(...).floats``; 0 where ``winograd_pays`` says no."""
    if not _filters(axes):
        return 0
    (down, across), (images, channels, outputs), points = axes, sizes, _points(axes)
    parts = _quotient_up(points * _round_up(outputs, 4) * channels, WINOGRAD_WEIGHTS)
    part = _round_up(_quotient_up(_round_up(outputs, 4), parts), 4)
    aim = WINOGRAD_BLOCK // (points * (channels + part)) & ~7
    source = _Source.of(axes, images, channels, aim)
    filled = _round_up(source.tiles, 8)
    floats = (
        points * (part * channels + WINOGRAD_APART)
        + filled // 8 * points * (8 * channels + WINOGRAD_APART)
        + points * (part * filled + WINOGRAD_APART)
        + source.tiles  # places
        + source.copy
    )
    tiles = images * _quotient_up(down.results, 2) * source.columns
    times = 1 if source.blocks == 1 else _quotient_up(outputs, part)
    results, taps = images * down.results * across.results, down.taps * across.taps
    plain = taps * channels * (outputs * results + 4 * tiles) + 20 * outputs * tiles
    here = points * (
        channels * (outputs * (source.blocks * filled + 5) + 5 * times * tiles)
        + 7 * outputs * tiles
    )
    return floats if floats <= WINOGRAD_FLOATS and 10 * plain > 11 * here else 0


def _filtered_gradient(axes: tuple[_Axis, _Axis], sizes: tuple[int, int, int]) -> int:
    """``winograd_gradient_plan(...).floats``; 0 where ``winograd_gradient_pays`` says no."""
    if not _filters(axes):
        return 0
    (down, across), (images, channels, outputs), points = axes, sizes, _points(axes)
    filled = _round_up(channels, 8)
    parts = _quotient_up(points * _round_up(outputs, 4) * filled, WINOGRAD_WEIGHTS)
    part = _round_up(_quotient_up(_round_up(outputs, 4), parts), 4)
    aim = min(WINOGRAD_BLOCK // (points * (filled + part)), WINOGRAD_TILES)
    seen = _Source.of(axes, images, channels, aim)
    down_errors, across_errors = (
        _Axis(a.results, a.results, 1, 1, offset=0, offset_step=1) for a in axes
    )
    errors = _Source.of((down_errors, across_errors), images, outputs, aim)
    floats = (
        points * (part * filled + (part + filled) * seen.tiles + 3 * WINOGRAD_APART)
        + 2 * seen.tiles  # places
        + errors.copy
        + seen.copy
    )
    tiles = images * _quotient_up(down.results, 2) * seen.columns
    times = 1 if seen.blocks == 1 else _quotient_up(outputs, part)
    taps = down.taps * across.taps
    plain = outputs * _round_up(channels * taps, 8) * images * down.results * across.results
    here = points * (
        filled * outputs * (tiles + 5 * seen.blocks + 5)
        + (4 * times * filled + 3 * outputs) * tiles
    )
    return floats if floats <= WINOGRAD_FLOATS and 10 * plain > 11 * here else 0


def _blocks(images: int, rows: int, columns: int, aim: int) -> tuple[int, int]:
    """Rows and images of a block of about ``aim`` pixels."""
    band = _quotient_up(rows, min(rows, _quotient_up(rows * columns, aim)))
    if band < rows:
        return band, 1
    return band, _quotient_up(images, _quotient_up(images * rows * columns, aim))


def _quotient_up(x: int, y: int) -> int:
    return -(-x // y)


def _round_up(x: int, unit: int) -> int:
    return _quotient_up(x, unit) * unit
