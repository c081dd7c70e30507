"""Models over time: recurrent networks, Transformers, dilated convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloister_tasks.compiler.zoo.example import Example, activation, fixed, rows_of, sgd

CHARACTERS = 90
"""Characters that the models of Shakespeare's plays tell apart."""
TOKENS = 100
"""Tokens that the small Transformers tell apart."""


class CharacterModel(nn.Module):
    """Embedding, recurrent layers, and the next character from the last state."""

    def __init__(self, layers: nn.GRU | nn.LSTM, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CHARACTERS, embedding)
        self.layers = layers
        self.head = nn.Linear(hidden, CHARACTERS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Characters i64[rows, time] to scores of the next one f32[rows, 90]."""
        states, _ = self.layers(self.embedding(tokens))
        scores: Tensor = self.head(states[:, -1])
        return scores


def _character_model(kind: type[nn.GRU] | type[nn.LSTM], batch: int, time: int) -> Example:
    model = CharacterModel(kind(8, 256, num_layers=2, batch_first=True), 8, 256)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.5),
        "example": (
            torch.randint(CHARACTERS, (batch, time)),
            torch.randint(CHARACTERS, (batch,)),
        ),
    }


@fixed
def lstm(*, batch: int = 8, smooth: bool = False, time: int = 80) -> Example:
    """The character model for Shakespeare's plays: embedding 8, two LSTM layers of 256 units.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, section 3; 80 characters a row, next character only, as in Caldas et al.,
    "LEAF", arXiv:1812.01097. It has no kink.
    """
    del smooth
    return _character_model(nn.LSTM, batch, time)


@fixed
def gru(*, batch: int = 8, smooth: bool = False, time: int = 80) -> Example:
    """The same character model with gated recurrent units (it has no kink).

    Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014, in the
    form of PyTorch, where the reset gate acts after the recurrent product.
    """
    del smooth
    return _character_model(nn.GRU, batch, time)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.heads = heads
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, time, width] to the same."""
        rows, time, width = x.shape
        parts = self.project(x).view(rows, time, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (rows, heads, time, width / heads)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(rows, time, width))
        return mixed


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads, causal))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, time, width] to the same."""
        x = x + self.attention(x)
        y: Tensor = x + self.perceptron(x)
        return y


class Transformer(nn.Module):
    """Token and position embeddings, blocks, layer norm, and a score for each token.

    Args:
        blocks: modules from f32[rows, time, width] to the same.
        width: of the embeddings.
        time: positions.
        tied: the head's matrix is the embedding's.
    """

    def __init__(self, blocks: list[nn.Module], width: int, time: int, *, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.position = nn.Parameter(torch.randn(time, width) * 0.02)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, TOKENS, bias=not tied)
        if tied:
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens i64[rows, time] to scores f32[rows, 100, time], as cross-entropy wants them."""
        x = self.blocks(self.embedding(tokens) + self.position)
        scores: Tensor = self.head(self.norm(x)).transpose(1, 2)
        return scores


def _tokens(batch: int, time: int) -> tuple[Tensor, Tensor]:
    """A row's tokens and, position by position, the ones that follow."""
    text = torch.randint(TOKENS, (batch, time + 1))
    return text[:, :-1].contiguous(), text[:, 1:].contiguous()


@fixed
def transformer(*, batch: int = 8, smooth: bool = False, time: int = 32) -> Example:
    """A two-layer encoder of width 64 with 4 heads that labels every token (it has no kink).

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017; norms before the layers as in Xiong
    et al., "On Layer Normalization in the Transformer Architecture", ICML 2020.
    """
    del smooth
    blocks: list[nn.Module] = [Block(64, 4, causal=False) for _ in range(2)]
    model = Transformer(blocks, 64, time, tied=False)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": _tokens(batch, time),
    }


@fixed
def transformer_encoder_layer(
    *, batch: int = 8, smooth: bool = False, time: int = 32, dropout: float = 0.0
) -> Example:
    """The same encoder from PyTorch's own layers, 128 hidden units in each perceptron.

    Vaswani et al., "Attention Is All You Need", NeurIPS 2017. It has no kink.
    """
    del smooth
    options: dict[str, Any] = {"activation": "gelu", "batch_first": True, "norm_first": True}
    blocks: list[nn.Module] = [
        nn.TransformerEncoderLayer(64, 4, 128, dropout=dropout, **options) for _ in range(2)
    ]
    model = Transformer(blocks, 64, time, tied=False)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "example": _tokens(batch, time),
    }


@fixed
def gpt(*, batch: int = 8, smooth: bool = False, time: int = 32, tied: bool = True) -> Example:
    """A small decoder that predicts the next token at every position (it has no kink).

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; one matrix for
    embedding and head after Press and Wolf, "Using the Output Embedding to Improve Language
    Models", EACL 2017, unless ``tied`` is False.
    """
    del smooth
    blocks: list[nn.Module] = [Block(64, 4, causal=True) for _ in range(2)]
    model = Transformer(blocks, 64, time, tied=tied)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1),
        "example": _tokens(batch, time),
    }


class DilatedBlock(nn.Module):
    """A causal dilated convolution beside a shortcut (Bai et al., 2018, figure 1)."""

    def __init__(self, inputs: int, outputs: int, dilation: int, smooth: bool) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.convolution = nn.Conv1d(inputs, outputs, 3, dilation=dilation)
        self.shortcut = nn.Conv1d(inputs, outputs, 1)
        self.activation = activation(smooth)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, inputs, time] to f32[rows, outputs, time]."""
        y = self.activation(self.convolution(functional.pad(x, (self.past, 0))))
        shortened: Tensor = y + self.shortcut(x)
        return shortened


@fixed
def dilated_cnn(*, batch: int = 32, smooth: bool = False, time: int = 128) -> Example:
    """A temporal convolutional network that tells 6 activities by 9 sensors.

    Bai, Kolter and Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent
    Networks for Sequence Modeling", arXiv:1803.01271; windows of 128 samples as in Anguita et
    al., "A Public Domain Dataset for Human Activity Recognition Using Smartphones", ESANN 2013.
    """
    widths = (9, 32, 32, 64, 64)
    blocks = [
        DilatedBlock(inputs, outputs, 2**place, smooth)
        for place, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 6))
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": rows_of((9, time), 6, batch),
    }
