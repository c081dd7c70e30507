"""Convolutional networks for grey images of 28x28 pixels."""

from __future__ import annotations

from torch import nn
from torch.nn import functional

from cloister_tasks.compiler.zoo.example import Example, activation, fixed, rows_of, sgd


def _classifier(model: nn.Module, batch: int) -> Example:
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.05),
        "example": rows_of((1, 28, 28), 10, batch),
    }


@fixed
def lenet5(*, batch: int = 32, smooth: bool = False) -> Example:
    """LeNet-5 as it is built today: rectifiers and max-pooling.

    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11),
    1998, figure 2.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        activation(smooth),
        nn.Linear(120, 84),
        activation(smooth),
        nn.Linear(84, 10),
    )
    return _classifier(model, batch)


@fixed
def lenet5_tanh(*, batch: int = 32, smooth: bool = False) -> Example:
    """LeNet-5 closer to the original: saturating activations and sub-sampling by averages.

    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11),
    1998, figure 2. It has no kink.
    """
    del smooth
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )
    return _classifier(model, batch)


@fixed
def mcmahan_cnn(*, batch: int = 32, smooth: bool = False) -> Example:
    """The MNIST CNN of the FedAvg paper, 1,663,370 parameters.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    AISTATS 2017, section 3.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 512),
        activation(smooth),
        nn.Linear(512, 10),
    )
    return _classifier(model, batch)


@fixed
def cnn_dropout(
    *, batch: int = 32, smooth: bool = False, rates: tuple[float, float] = (0.25, 0.5)
) -> Example:
    """The EMNIST CNN with dropout after the convolutions and before the last layer.

    Reddi et al., "Adaptive Federated Optimization", ICLR 2021, table 3; dropout by Srivastava et
    al., JMLR 15, 2014. ``rates`` are its two probabilities.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        activation(smooth),
        nn.Conv2d(32, 64, 3),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Dropout(rates[0]),
        nn.Flatten(),
        nn.Linear(9216, 128),
        activation(smooth),
        nn.Dropout(rates[1]),
        nn.Linear(128, 10),
    )
    return _classifier(model, batch)
