"""Source of a user's module with factories, good ones and bad."""

SOURCE = """
import torch
from torch import nn

RATE = 0.1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.layer = nn.Linear(4, 3)
        self.fixed = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, x):
        return self.fixed(self.layer(self.norm(x)))


def small(model=None, loss=nn.functional.cross_entropy, **more):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 3))
    return {
        "model": model,
        "loss": loss,
        "optimizer": torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE),
        "example": (torch.randn(8, 4), torch.randint(3, (8,))),
        **more,
    }


def coupled():
    return small(Net(), local=["norm.running_*"], capacity=32)


def incomplete():
    return {"model": nn.Linear(4, 3), "example": small()["example"]}


def foreign():
    return small(colour="red")


def raises():
    return small()["nothing"]


def nothing():
    return None


def misfit():
    return small(nn.Sequential(nn.Linear(5, 3)))


def bad_loss(output, target):
    return output.nonsense()


def lossy():
    return small(loss=bad_loss)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return torch.special.i0(self.layer(x))  # the line at fault


def unsupported():
    return small(Odd())
"""
