"""Models as people write them: parts that meet in ways the zoo does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cloister_tasks.compiler import compile as compile_model

from .machine import Machine, Twin, distance

ROWS = 6
Example = dict[str, Any]
CASES: dict[str, Callable[[], tuple[nn.Module, Callable[..., Tensor], Any, Tensor]]] = {}


class Written(nn.Module):
    """A module whose forward is a function of it and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        """Whatever the function says."""
        return self.function(self, x)


class TwoInputs(Written):
    """The same with two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        """Whatever the function says."""
        return self.function(self, x, y)


def case(builder: Callable[[], Any]) -> Callable[[], Any]:
    """Enter (model, loss, inputs, target) by the builder's name."""
    CASES[builder.__name__] = builder
    return builder


def labels(classes: int = 4, *shape: int) -> Tensor:
    """Random classes."""
    return torch.randint(classes, (ROWS, *shape))


@case
def binary_scores() -> Any:
    model = Written(lambda m, x: m.line(x).squeeze(1), line=nn.Linear(5, 1))
    return model, nnf.binary_cross_entropy_with_logits, torch.randn(ROWS, 5), torch.rand(ROWS)


@case
def smoothed_labels() -> Any:
    return nn.Linear(5, 4), nn.CrossEntropyLoss(label_smoothing=0.1), torch.randn(ROWS, 5), labels()


@case
def summed_loss() -> Any:
    model, loss = nn.Linear(5, 3), nn.MSELoss(reduction="sum")
    return model, loss, torch.randn(ROWS, 5), torch.randn(ROWS, 3)


@case
def contrast_of_the_whole_batch() -> Any:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        similarity = nnf.normalize(output, dim=1) @ nnf.normalize(target, dim=1).T
        return nnf.cross_entropy(5 * similarity, torch.arange(len(output)))

    return nn.Linear(5, 4), loss, torch.randn(ROWS, 5), torch.randn(ROWS, 4)


@case
def dice() -> Any:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        both, each = (output * target).sum((1, 2, 3)), (output + target).sum((1, 2, 3))
        return 1 - (2 * both / (each + 1)).mean()

    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 1, 1))
    model.append(nn.Sigmoid())
    return model, loss, torch.randn(ROWS, 1, 8, 8), torch.rand(ROWS, 1, 8, 8).round()


@case
def padded_attention() -> Any:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        x = m.embedding(tokens)
        mixed, _ = m.attention(x, x, x, key_padding_mask=tokens == 0)
        scores: Tensor = m.head(mixed.mean(1))
        return scores

    model = Written(
        forward,
        embedding=nn.Embedding(10, 8, padding_idx=0),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        head=nn.Linear(8, 4),
    )
    tokens = torch.randint(10, (ROWS, 5))
    tokens[:, 0] = 3
    return model, nnf.cross_entropy, tokens, labels()


@case
def recurrent_both_ways() -> Any:
    model = Written(
        lambda m, x: m.head(m.layers(x)[0][:, -1]),
        layers=nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
        head=nn.Linear(8, 4),
    )
    return model, nnf.cross_entropy, torch.randn(ROWS, 5, 3), labels()


@case
def recurrent_from_a_trained_state() -> Any:
    model = Written(
        lambda m, x: m.head(m.layers(x, m.first.expand(-1, len(x), -1).contiguous())[1][0]),
        layers=nn.GRU(3, 4, batch_first=True),
        first=nn.Parameter(torch.randn(1, 1, 4)),
        head=nn.Linear(4, 4),
    )
    return model, nnf.cross_entropy, torch.randn(ROWS, 5, 3), labels()


@case
def recurrent_cells() -> Any:
    def forward(m: Any, x: Tensor) -> Tensor:
        state = cell = x.new_zeros(len(x), 4)
        for t in range(x.shape[1]):
            state, cell = m.cell(x[:, t], (state, cell))
        scores: Tensor = m.head(state)
        return scores

    model = Written(forward, cell=nn.LSTMCell(3, 4), head=nn.Linear(4, 4))
    return model, nnf.cross_entropy, torch.randn(ROWS, 9, 3), labels()


@case
def weight_norm() -> Any:
    model = parametrizations.weight_norm(nn.Linear(5, 4))
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def normalised_columns() -> Any:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 4))
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def normalised_images() -> Any:
    norm = nn.InstanceNorm2d(3, affine=True)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), norm, nn.Flatten(), nn.Linear(75, 4))
    return model, nnf.cross_entropy, torch.randn(ROWS, 2, 7, 7), labels()


@case
def two_inputs() -> Any:
    model = TwoInputs(lambda m, x, y: m.a(x) + m.b(y), a=nn.Linear(5, 4), b=nn.Linear(3, 4))
    return model, nnf.cross_entropy, (torch.randn(ROWS, 5), torch.randn(ROWS, 3)), labels()


@case
def one_layer_used_twice() -> Any:
    model = Written(lambda m, x: m.line(torch.tanh(m.line(x))), line=nn.Linear(4, 4))
    return model, nnf.cross_entropy, torch.randn(ROWS, 4), labels()


@case
def a_layer_not_used() -> Any:
    model = Written(lambda m, x: m.line(x), line=nn.Linear(5, 4), unused=nn.Linear(2, 2))
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def buffers() -> Any:
    model = Written(
        lambda m, x: m.line((x * m.scale)[:, m.chosen]),
        line=nn.Linear(3, 4),
        scale=torch.randn(5),
        chosen=torch.tensor([0, 3, 4]),
    )
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def numbers_as_parameters() -> Any:
    a, b = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.1))
    model = Written(lambda m, x: m.a * x.sum(1) + m.b, a=a, b=b)
    return model, nnf.mse_loss, torch.randn(ROWS, 5), torch.randn(ROWS)


@case
def bilinear_forms() -> Any:
    weight = nn.Parameter(torch.randn(4, 5, 5) * 0.1)
    model = Written(lambda m, x: torch.einsum("bi,hij,bj->bh", x, m.weight, x), weight=weight)
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def resampled_images() -> Any:
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), up, nn.Conv2d(2, 1, 3, padding=1))
    return model, nnf.mse_loss, torch.randn(ROWS, 1, 4, 4), torch.randn(ROWS, 1, 8, 8)


@case
def one_hot_tokens() -> Any:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        rows = nnf.one_hot(tokens, 10).to(m.line.weight.dtype).flatten(1)
        scores: Tensor = m.line(rows)
        return scores

    model = Written(forward, line=nn.Linear(30, 4))
    return model, nnf.cross_entropy, torch.randint(10, (ROWS, 3)), labels()


@case
def hashed_tokens() -> Any:
    model = Written(
        lambda m, tokens: m.line(m.embedding((tokens * 7 + 3) % 11).cumsum(1)[:, -1]),
        embedding=nn.Embedding(11, 6),
        line=nn.Linear(6, 4),
    )
    return model, nnf.cross_entropy, torch.randint(10, (ROWS, 3)), labels()


@case
def bytes_as_pixels() -> Any:
    def forward(m: Any, x: Tensor) -> Tensor:
        scores: Tensor = m.line(x.flatten(1).to(m.line.weight.dtype) / 255)
        return scores

    pixels = torch.randint(256, (ROWS, 3, 4, 4), dtype=torch.uint8)
    return Written(forward, line=nn.Linear(48, 4)), nnf.cross_entropy, pixels, labels()


@case
def decoder() -> Any:
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = Written(lambda m, x: m.layer(x, x.flip(1)), layer=layer)
    return model, nnf.mse_loss, torch.randn(ROWS, 5, 8), torch.randn(ROWS, 5, 8)


@case
def gated() -> Any:
    model = Written(
        lambda m, x: m.out(nnf.silu(m.gate(m.norm(x))) * m.up(m.norm(x))),
        norm=nn.RMSNorm(5),
        gate=nn.Linear(5, 6, bias=False),
        up=nn.Linear(5, 6, bias=False),
        out=nn.Linear(6, 4),
    )
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels()


@case
def rotary_positions() -> Any:
    def forward(m: Any, x: Tensor) -> Tensor:
        half = x.shape[2] // 2
        angle = torch.arange(x.shape[1])[:, None] / 10 ** (torch.arange(half) / half)
        a, b = x[..., ::2], x[..., 1::2]
        turned = [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
        scores: Tensor = m.line(torch.stack(turned, -1).flatten(-2)).mean(1)
        return scores

    return (
        Written(forward, line=nn.Linear(8, 4)),
        nnf.cross_entropy,
        torch.randn(ROWS, 5, 8),
        labels(),
    )


@case
def a_class_for_each_position() -> Any:
    model = Written(lambda m, x: m.line(x).view(-1, 3, 4).transpose(1, 2), line=nn.Linear(5, 12))
    return model, nnf.cross_entropy, torch.randn(ROWS, 5), labels(4, 3)


@pytest.mark.parametrize("name", CASES)
def test_three_steps_and_a_prediction(guest, name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, loss, inputs, target = CASES[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    example: Example = {
        "model": model,
        "loss": loss,
        "optimizer": optimizer,
        "example": (inputs, target),
    }
    task = compile_model(**example, capacity=ROWS)
    machine = Machine(guest, task)
    exact, usual = Twin(example), Twin(example, torch.float32)
    for _ in range(3):
        machine.run("train", example)
        for twin in (exact, usual):
            twin.train(example, ROWS)
    found, rough = machine.state(), usual.state()
    for parameter, wanted in exact.state().items():
        if parameter in found:
            error = distance(found[parameter], wanted)
            assert error <= 4 * distance(rough[parameter], wanted) + 1e-6, parameter
    assert {n for n, _ in model.named_parameters()} <= found.keys()
    machine.run("predict", example)
    np.testing.assert_allclose(machine.outputs(ROWS), exact.predict(example), rtol=1e-4, atol=1e-5)
