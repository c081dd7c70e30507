"""Functions of neural networks to compile: products, convolutions, pooling, norms, losses."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from .tensor_cases import Case, between, normal, positive, whole

PRODUCTS: dict[str, Case] = {
    "mm": (torch.mm, (normal(5, 7), normal(7, 9, seed=1))),
    "mm_transposed": (lambda a, b: a.T @ b.T, (normal(7, 5), normal(9, 7, seed=1))),
    "mm_sliced": (lambda a, b: a[::2, 1:] @ b, (normal(10, 8), normal(7, 9, seed=1))),
    "mm_one": (torch.mm, (normal(1, 1), normal(1, 1, seed=1))),
    "mm_column": (torch.mm, (normal(33, 17), normal(17, 1, seed=1))),
    "mm_large": (torch.mm, (normal(70, 130), normal(130, 90, seed=1))),
    "bmm": (torch.bmm, (normal(3, 5, 7), normal(3, 7, 4, seed=1))),
    "matmul_broadcast": (torch.matmul, (normal(2, 1, 5, 7), normal(3, 7, 4, seed=1))),
    "matmul_3_2": (torch.matmul, (normal(3, 5, 7), normal(7, 4, seed=1))),
    "matmul_1_2": (torch.matmul, (normal(7), normal(7, 4, seed=1))),
    "mv": (torch.mv, (normal(5, 7), normal(7, seed=1))),
    "dot": (torch.dot, (normal(7), normal(7, seed=1))),
    "outer": (torch.outer, (normal(7), normal(5, seed=1))),
    "addmm": (
        lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=-2),
        (normal(9), normal(5, 7, seed=1), normal(7, 9, seed=2)),
    ),
    "baddbmm": (
        lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2),
        (normal(3, 5, 1), normal(3, 5, 7, seed=1), normal(3, 7, 9, seed=2)),
    ),
    "linear": (nnf.linear, (normal(2, 3, 7), normal(5, 7, seed=1), normal(5, seed=2))),
    "bilinear": (nnf.bilinear, (normal(4, 3), normal(4, 5, seed=1), normal(2, 3, 5, seed=2))),
    "einsum": (
        lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b),
        (normal(2, 3, 4, 5), normal(2, 3, 6, 5, seed=1)),
    ),
    "fused": (
        lambda x, w, b, y: torch.tanh(nnf.linear(x, w, b)) * y,
        (normal(6, 7), normal(5, 7, seed=1), normal(5, seed=2), normal(6, 5, seed=3)),
    ),
}
IMAGE, KERNEL = normal(2, 4, 9, 8), normal(6, 4, 3, 3, seed=1)
CONVOLUTIONS: dict[str, Case] = {
    "conv2d": (nnf.conv2d, (IMAGE, KERNEL, normal(6, seed=2))),
    "conv2d_stride": (lambda x, w: nnf.conv2d(x, w, stride=(2, 1), padding=1), (IMAGE, KERNEL)),
    "conv2d_dilation": (lambda x, w: nnf.conv2d(x, w, dilation=2, padding=2), (IMAGE, KERNEL)),
    "conv2d_same": (lambda x, w: nnf.conv2d(x, w, padding="same"), (IMAGE, KERNEL)),
    "conv2d_1x1": (nnf.conv2d, (IMAGE, normal(6, 4, 1, 1), normal(6, seed=2))),
    "conv2d_groups": (
        lambda x, w, b: nnf.conv2d(x, w, b, groups=2),
        (IMAGE, normal(6, 2, 3, 3), normal(6, seed=2)),
    ),
    "depthwise": (
        lambda x, w: nnf.conv2d(x, w, groups=4, padding=1, stride=2),
        (IMAGE, normal(4, 1, 3, 3)),
    ),
    "depthwise_multiplied": (
        lambda x, w, b: nnf.conv2d(x, w, b, groups=4),
        (IMAGE, normal(8, 1, 3, 2), normal(8, seed=2)),
    ),
    "conv1d": (
        lambda x, w, b: nnf.conv1d(x, w, b, padding=2, dilation=2, stride=2),
        (normal(3, 4, 19), normal(5, 4, 3, seed=1), normal(5, seed=2)),
    ),
    "conv1d_groups": (
        lambda x, w: nnf.conv1d(x, w, groups=2),
        (normal(3, 4, 19), normal(6, 2, 3, seed=1)),
    ),
    "conv_transpose2d": (
        lambda x, w, b: nnf.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        (IMAGE, normal(4, 5, 3, 3, seed=1), normal(5, seed=2)),
    ),
    "conv_transpose2d_2": (
        lambda x, w: nnf.conv_transpose2d(x, w, stride=2),
        (IMAGE, normal(4, 5, 2, 2, seed=1)),
    ),
    "conv_transpose2d_groups": (
        lambda x, w: nnf.conv_transpose2d(x, w, groups=2, dilation=2),
        (IMAGE, normal(4, 3, 3, 2, seed=1)),
    ),
    "conv_transpose1d": (
        lambda x, w: nnf.conv_transpose1d(x, w, stride=3, padding=1),
        (normal(3, 4, 9), normal(4, 5, 4, seed=1)),
    ),
    "conv2d_unbatched": (nnf.conv2d, (IMAGE[0], KERNEL)),
    "conv2d_fused": (
        lambda x, w, b: torch.relu(nnf.conv2d(x, w, b, padding=1)) * 2,
        (IMAGE, KERNEL, normal(6, seed=2)),
    ),
}
POOLING: dict[str, Case] = {
    "max_pool2d": (lambda x: nnf.max_pool2d(x, 2), (IMAGE,)),
    "max_pool2d_overlapping": (lambda x: nnf.max_pool2d(x, 3, 2, padding=1), (IMAGE,)),
    "max_pool2d_dilated": (lambda x: nnf.max_pool2d(x, 2, 1, dilation=2), (IMAGE,)),
    "max_pool2d_ceil": (lambda x: nnf.max_pool2d(x, (2, 3), 2, ceil_mode=True), (IMAGE,)),
    "max_pool2d_ties": (lambda x: nnf.max_pool2d(x.round(), 3, 1), (IMAGE,)),
    "max_pool1d": (lambda x: nnf.max_pool1d(x, 3, 2), (normal(2, 3, 11),)),
    "avg_pool2d": (lambda x: nnf.avg_pool2d(x, 2), (IMAGE,)),
    "avg_pool2d_padded": (lambda x: nnf.avg_pool2d(x, 3, 2, padding=1), (IMAGE,)),
    "avg_pool2d_uncounted": (
        lambda x: nnf.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False),
        (IMAGE,),
    ),
    "avg_pool2d_ceil": (lambda x: nnf.avg_pool2d(x, 2, 3, ceil_mode=True), (IMAGE,)),
    "avg_pool2d_divisor": (lambda x: nnf.avg_pool2d(x, 2, divisor_override=3), (IMAGE,)),
    "avg_pool1d": (lambda x: nnf.avg_pool1d(x, 3, 2), (normal(2, 3, 11),)),
    "adaptive_avg_pool2d_1": (lambda x: nnf.adaptive_avg_pool2d(x, 1), (IMAGE,)),
    "adaptive_avg_pool2d_even": (lambda x: nnf.adaptive_avg_pool2d(x, (3, 4)), (IMAGE,)),
    "adaptive_avg_pool2d_uneven": (lambda x: nnf.adaptive_avg_pool2d(x, (4, 3)), (IMAGE,)),
    "adaptive_avg_pool1d": (lambda x: nnf.adaptive_avg_pool1d(x, 1), (normal(2, 3, 11),)),
    "adaptive_max_pool2d_even": (lambda x: nnf.adaptive_max_pool2d(x, (3, 4)), (IMAGE,)),
    "lp_pool2d": (lambda x: nnf.lp_pool2d(x.abs() + 0.1, 2, 2), (IMAGE,)),
    "upsample_nearest": (lambda x: nnf.interpolate(x, scale_factor=2), (IMAGE,)),
    "upsample_bilinear": (
        lambda x: nnf.interpolate(x, scale_factor=2, mode="bilinear"),
        (IMAGE,),
    ),
    "upsample_aligned": (
        lambda x: nnf.interpolate(x, (5, 13), mode="bilinear", align_corners=True),
        (IMAGE,),
    ),
}
NORMS: dict[str, Case] = {
    "layer_norm": (
        lambda x, w, b: nnf.layer_norm(x, (5,), w, b),
        (normal(3, 4, 5), normal(5, seed=1), normal(5, seed=2)),
    ),
    "layer_norm_2": (lambda x: nnf.layer_norm(x, (4, 5), eps=0.1), (normal(3, 4, 5),)),
    "rms_norm": (lambda x, w: nnf.rms_norm(x, (5,), w), (normal(3, 4, 5), normal(5, seed=1))),
    "group_norm": (
        lambda x, w, b: nnf.group_norm(x, 2, w, b),
        (IMAGE, normal(4, seed=1), normal(4, seed=2)),
    ),
    "batch_norm": (
        lambda x, w, b: nnf.batch_norm(x, None, None, w, b, training=True),
        (IMAGE, normal(4, seed=1), normal(4, seed=2)),
    ),
    "batch_norm_1": (
        lambda x: nnf.batch_norm(x, None, None, training=True),
        (normal(6, 4),),
    ),
    "batch_norm_evaluated": (
        lambda x, m, v, w, b: nnf.batch_norm(x, m.detach(), v.detach(), w, b),
        (IMAGE, normal(4), positive(4), normal(4, seed=1), normal(4, seed=2)),
    ),
    "instance_norm": (lambda x: nnf.instance_norm(x), (IMAGE,)),
    "normalize": (lambda x: nnf.normalize(x, dim=1), (IMAGE,)),
    "cosine_similarity": (nnf.cosine_similarity, (normal(3, 5), normal(3, 5, seed=1))),
}
SCORES, CLASSES = normal(6, 5), whole(0, 5, 6)
GRID, LABELS = normal(2, 5, 3, 4), whole(0, 5, 2, 3, 4)
LOSSES: dict[str, Case] = {
    "cross_entropy": (nnf.cross_entropy, (SCORES, CLASSES)),
    "cross_entropy_sum": (lambda x, y: nnf.cross_entropy(x, y, reduction="sum"), (SCORES, CLASSES)),
    "cross_entropy_rows": (
        lambda x, y: nnf.cross_entropy(x, y, reduction="none"),
        (SCORES, CLASSES),
    ),
    "cross_entropy_smoothed": (
        lambda x, y: nnf.cross_entropy(x, y, label_smoothing=0.2),
        (SCORES, CLASSES),
    ),
    "cross_entropy_weighted": (
        lambda x, y, w: nnf.cross_entropy(x, y, w.detach()),
        (SCORES, CLASSES, positive(5)),
    ),
    "cross_entropy_ignoring": (
        lambda x, y: nnf.cross_entropy(x, y, ignore_index=2),
        (SCORES, CLASSES),
    ),
    "cross_entropy_grid": (nnf.cross_entropy, (GRID, LABELS)),
    "cross_entropy_soft": (
        lambda x, y: nnf.cross_entropy(x, y.softmax(1)),
        (SCORES, normal(6, 5, seed=1)),
    ),
    "nll": (lambda x, y: nnf.nll_loss(x.log_softmax(1), y), (SCORES, CLASSES)),
    "nll_grid": (lambda x, y: nnf.nll_loss(x.log_softmax(1), y), (GRID, LABELS)),
    "mse": (nnf.mse_loss, (SCORES, normal(6, 5, seed=1))),
    "l1": (nnf.l1_loss, (SCORES, normal(6, 5, seed=1))),
    "smooth_l1": (
        lambda x, y: nnf.smooth_l1_loss(x, y, beta=0.5),
        (SCORES, normal(6, 5, seed=1)),
    ),
    "huber": (lambda x, y: nnf.huber_loss(x, y, delta=0.7), (SCORES, normal(6, 5, seed=1))),
    "bce": (nnf.binary_cross_entropy, (between(0, 1, 6, 5), between(0, 1, 6, 5, seed=1))),
    "bce_logits": (
        lambda x, y, w: nnf.binary_cross_entropy_with_logits(x, y, pos_weight=w),
        (SCORES, between(0, 1, 6, 5, seed=1), positive(5)),
    ),
    "kl_div": (
        lambda x, y: nnf.kl_div(x.log_softmax(1), y.softmax(1), reduction="batchmean"),
        (SCORES, normal(6, 5, seed=1)),
    ),
    "poisson": (nnf.poisson_nll_loss, (SCORES, positive(6, 5))),
    "soft_margin": (
        lambda x, y: nnf.soft_margin_loss(x, y.detach().sign()),
        (SCORES, normal(6, 5, seed=1)),
    ),
    "hinge_embedding": (
        lambda x, y: nnf.hinge_embedding_loss(x, y.sign()),
        (SCORES, normal(6, 5, seed=1)),
    ),
    "triplet": (
        nnf.triplet_margin_loss,
        (SCORES, normal(6, 5, seed=1), normal(6, 5, seed=2)),
    ),
    "pairwise_distance": (nnf.pairwise_distance, (SCORES, normal(6, 5, seed=1))),
}
Q, K, V = normal(2, 3, 5, 4), normal(2, 3, 6, 4, seed=1), normal(2, 3, 6, 4, seed=2)


def _module(kind: type[nn.Module], *arguments: int, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return kind(*arguments, **options)


def _called(module: nn.Module) -> Case:
    """A recurrent module as a function of its input and its parameters."""
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> object:
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, parameters, (x,))

    return call, (normal(3, 4, 5), *(p.detach() for p in module.parameters()))


MODULES: dict[str, Case] = {
    "attention": (nnf.scaled_dot_product_attention, (Q, K, V)),
    "attention_causal": (
        lambda q, k, v: nnf.scaled_dot_product_attention(q, k, v, is_causal=True),
        (K, K + 1, V),
    ),
    "attention_boolean_mask": (
        lambda q, k, v, m: nnf.scaled_dot_product_attention(q, k, v, m),
        (Q, K, V, whole(0, 3, 5, 6) > 0),
    ),
    "attention_added_mask": (
        lambda q, k, v, m: nnf.scaled_dot_product_attention(q, k, v, m, scale=0.3),
        (Q, K, V, normal(3, 5, 6)),
    ),
    "lstm": _called(_module(nn.LSTM, 5, 6, batch_first=True)),
    "lstm_two_ways": _called(_module(nn.LSTM, 5, 3, num_layers=2, bidirectional=True)),
    "gru": _called(_module(nn.GRU, 5, 6, num_layers=2, batch_first=True)),
    "gru_two_ways": _called(_module(nn.GRU, 5, 3, bidirectional=True, bias=False)),
    "rnn_tanh": _called(_module(nn.RNN, 5, 6)),
    "rnn_relu": _called(_module(nn.RNN, 5, 6, nonlinearity="relu")),
    "encoder_layer": _called(
        _module(nn.TransformerEncoderLayer, 5, 1, 7, dropout=0.0, batch_first=True)
    ),
}
