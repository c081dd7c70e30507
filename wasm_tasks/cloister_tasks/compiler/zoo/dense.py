"""Models made of matrix products and table look-ups."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloister_tasks.compiler.zoo.example import Example, activation, fixed, rows_of, sgd


@fixed
def logistic_regression(*, batch: int = 32, smooth: bool = False) -> Example:
    """Multinomial logistic regression, 784 features to 10 classes (it has no kink)."""
    del smooth
    model = nn.Linear(784, 10)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": rows_of((784,), 10, batch),
    }


@fixed
def mlp(*, batch: int = 32, smooth: bool = False) -> Example:
    """A perceptron with one hidden layer, 784-128-10."""
    return _perceptron((784, 128, 10), batch, smooth)


@fixed
def mlp_deep(*, batch: int = 32, smooth: bool = False) -> Example:
    """The "2NN" of McMahan et al., 784-200-200-10.

    "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.
    """
    return _perceptron((784, 200, 200, 10), batch, smooth)


def _perceptron(widths: tuple[int, ...], batch: int, smooth: bool) -> Example:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh() if smooth else nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": rows_of((widths[0],), widths[-1], batch),
    }


class LoRALinear(nn.Module):
    """A frozen linear layer W with a trained low-rank update: y = W x + b + (alpha / r) B A x.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, equation 3. B
    starts at zero, so the layer starts as its base.

    Args:
        base: the layer to adapt; its parameters no longer train.
        rank: r, the rows of A.
        alpha: weight of the update.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, in_features] to f32[rows, out_features]."""
        y: Tensor = self.base(x)
        return y + (x @ self.a.T) @ self.b.T * self.scale


@fixed
def lora(*, batch: int = 32, smooth: bool = False, width: int = 768, rank: int = 8) -> Example:
    """A frozen layer with a low-rank update, and a trained head of 10 classes.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """
    model = nn.Sequential(
        LoRALinear(nn.Linear(width, width), rank, alpha=2.0 * rank),
        activation(smooth),
        nn.Linear(width, 10),
    )
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": rows_of((width,), 10, batch),
    }


class MatrixFactorisation(nn.Module):
    """Rating = <u, v> + bias of the user + bias of the item + mean.

    Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE
    Computer 42(8), 2009, equation 4.
    """

    def __init__(self, users: int, items: int, width: int) -> None:
        super().__init__()
        self.user = nn.Embedding(users, width)
        self.item = nn.Embedding(items, width)
        self.user_bias = nn.Embedding(users, 1)
        self.item_bias = nn.Embedding(items, 1)
        self.mean = nn.Parameter(torch.zeros(()))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """Numbers of users and items, i64[rows] each, to ratings f32[rows]."""
        product = (self.user(user) * self.item(item)).sum(-1)
        bias = self.user_bias(user) + self.item_bias(item)
        ratings: Tensor = product + bias.squeeze(-1) + self.mean
        return ratings


@fixed
def matrix_factorisation(
    *, batch: int = 32, smooth: bool = False, users: int = 1000, items: int = 2000, width: int = 32
) -> Example:
    """Biased matrix factorisation of ratings, two inputs of numbers (it has no kink).

    Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems", IEEE
    Computer 42(8), 2009.
    """
    del smooth
    model = MatrixFactorisation(users, items, width)
    inputs = (torch.randint(users, (batch,)), torch.randint(items, (batch,)))
    return {
        "model": model,
        "loss": functional.mse_loss,
        "optimizer": sgd(model, lr=0.05),
        "example": (inputs, torch.rand(batch)),
    }
