"""Convolutional networks for colour images and for images that are labelled pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cloister_tasks.compiler.zoo.example import Example, activation, fixed, rows_of, sgd


def _classifier(model: nn.Module, batch: int, *, momentum: float = 0.0) -> Example:
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.05, momentum=momentum),
        "example": rows_of((3, 32, 32), 10, batch),
    }


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


@fixed
def gn_cnn(*, batch: int = 32, smooth: bool = False) -> Example:
    """Two convolutions with group normalisation, which does not mix rows.

    Wu and He, "Group Normalization", ECCV 2018; in federated learning since Hsieh et al., "The
    Non-IID Data Quagmire of Decentralized Machine Learning", ICML 2020.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        _group_norm(32),
        activation(smooth),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        _group_norm(64),
        activation(smooth),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return _classifier(model, batch)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al., 2016, figure 5 left)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        norm: Callable[[int], nn.Module],
        smooth: bool,
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            norm(outputs),
            activation(smooth),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            norm(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs)
            )
        self.activation = activation(smooth)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, inputs, h, w] to f32[rows, outputs, h / stride, w / stride]."""
        y: Tensor = self.activation(self.convolutions(x) + self.shortcut(x))
        return y


def _resnet18(norm: Callable[[int], nn.Module], smooth: bool) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        norm(64),
        activation(smooth),
    ]
    inputs = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [
            ResidualBlock(inputs, outputs, stride, norm, smooth),
            ResidualBlock(outputs, outputs, 1, norm, smooth),
        ]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


@fixed
def resnet18_gn(*, batch: int = 8, smooth: bool = False) -> Example:
    """ResNet-18 for CIFAR with group normalisation, as federated papers train it.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Reddi et al., "Adaptive
    Federated Optimization", ICLR 2021, section 4.
    """
    return _classifier(_resnet18(_group_norm, smooth), batch)


@fixed
def resnet18_bn(*, batch: int = 8, smooth: bool = False) -> Example:
    """ResNet-18 for CIFAR with batch normalisation and momentum.

    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Ioffe and Szegedy,
    "Batch Normalization", ICML 2015.
    """
    return _classifier(_resnet18(nn.BatchNorm2d, smooth), batch, momentum=0.9)


class InvertedResidual(nn.Module):
    """Widen, filter each channel alone, narrow (Sandler et al., 2018, table 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int, smooth: bool) -> None:
        super().__init__()
        width = inputs * widen
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            activation(smooth, nn.ReLU6),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            activation(smooth, nn.ReLU6),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, inputs, h, w] to f32[rows, outputs, h / stride, w / stride]."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


@fixed
def mobilenetv2(*, batch: int = 32, smooth: bool = False) -> Example:
    """A small MobileNetV2 for CIFAR, with the last activation of MobileNetV3.

    Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; Howard et
    al., "Searching for MobileNetV3", ICCV 2019, equation for h-swish.
    """
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False),
        nn.BatchNorm2d(16),
        activation(smooth, nn.ReLU6),
        InvertedResidual(16, 16, 1, 4, smooth),
        InvertedResidual(16, 32, 2, 4, smooth),
        InvertedResidual(32, 32, 1, 4, smooth),
        nn.Conv2d(32, 64, 1),
        activation(smooth, nn.Hardswish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return _classifier(model, batch)


@fixed
def mobilenetv1_224(*, batch: int = 1, smooth: bool = False) -> Example:
    """MobileNetV1 of full width for 224x224 pixels and 1,000 classes; meant for prediction.

    Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications", 2017, arXiv:1704.04861, table 1: 4.2 M parameters, 569 M multiply-adds a row.
    """

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            activation(smooth),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            activation(smooth),
        ]

    widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    layers = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), activation(smooth)]
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += block(inputs, outputs, 2 if place in (1, 3, 5, 11) else 1)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.05),
        "example": rows_of((3, 224, 224), 1000, batch),
    }


class UNet(nn.Module):
    """Down, across and up again: every resolution on the way up sees the one on the way down.

    Args:
        channels: of the image.
        classes: of each pixel.
        widths: channels at each resolution, finest first.
        smooth: use smooth activations.
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...], smooth: bool) -> None:
        super().__init__()

        def twice(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1),
                activation(smooth),
                nn.Conv2d(outputs, outputs, 3, padding=1),
                activation(smooth),
            )

        sizes = list(zip((channels, *widths), widths, strict=False))
        self.down = nn.ModuleList(twice(*size) for size in sizes)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, stride=2) for pair in pairs)
        self.up = nn.ModuleList(twice(2 * outputs, outputs) for _, outputs in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, channels, h, w] to f32[rows, classes, h, w]."""
        seen = []
        for place, layer in enumerate(self.down):
            x = layer(functional.max_pool2d(x, 2) if place else x)
            seen.append(x)
        for widen, layer, beside in zip(self.widen, self.up, seen[-2::-1], strict=True):
            x = layer(torch.cat([beside, widen(x)], dim=1))
        y: Tensor = self.head(x)
        return y


@fixed
def unet(*, batch: int = 8, smooth: bool = False, size: int = 32) -> Example:
    """A small U-Net that labels every pixel of a grey image as one of two classes.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", MICCAI 2015, figure 1; widths 8, 16 and 32, images of ``size`` squared.
    """
    model = UNet(1, 2, (8, 16, 32), smooth)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": sgd(model, lr=0.1),
        "example": (torch.randn(batch, 1, size, size), torch.randint(2, (batch, size, size))),
    }
