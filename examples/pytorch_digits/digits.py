"""A convolutional network of one's own, trained over 20 clients whose digits differ."""

import torch
from torch import nn

import cloister
from cloister import datasets, partition


def factory() -> dict[str, object]:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    example = torch.zeros(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)
    sgd = torch.optim.SGD(net.parameters(), lr=0.2)
    return {"model": net, "loss": nn.CrossEntropyLoss(), "optimizer": sgd, "example": example}


if __name__ == "__main__":
    task = cloister.compile(**factory())
    data = datasets.load("digits")
    parts = partition.dirichlet(data.labels, clients=20, alpha=1.0)
    columns = [{name: column[rows] for name, column in data.train.items()} for rows in parts]
    clients = [cloister.Client(f"{i:02}", cloister.Dataset(c, {})) for i, c in enumerate(columns)]
    history = cloister.simulate(task, clients, rounds=20, epochs=3, keep_order=True, test=data.test)
    print(f"federated, in sandboxes: {history.final['correct']:.2%} of the test digits right")
    net = factory()["model"]
    net.load_state_dict(task.state_dict(history.block))  # back in PyTorch
    torch.save(net.state_dict(), "digits.pt")
