"""The same training in PyTorch alone, to compare: federated averaging, and on all rows at once."""

import torch
from digits import factory

from cloister import datasets, partition


def train(model, optimizer, loss, images, labels, batch):
    for rows in torch.arange(len(labels)).split(batch):
        optimizer.zero_grad()
        loss(model(images[rows]), labels[rows]).backward()
        optimizer.step()


def averaged(states, counts):
    """McMahan et al., AISTATS 2017, algorithm 1: the mean by numbers of rows."""
    shares = [count / sum(counts) for count in counts]
    return {
        name: sum(share * state[name] for share, state in zip(shares, states, strict=True))
        for name in states[0]
    }


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    torch.set_num_threads(1)  # batches this small gain nothing from more
    data = datasets.load("digits")
    images, labels, test_images, test_labels = (
        torch.from_numpy(split[name]).reshape(shape)
        for split in (data.train, data.test)
        for name, shape in (("features", (-1, 1, 8, 8)), ("label", -1))
    )
    labels, test_labels = labels.long(), test_labels.long()
    made = factory()
    model, optimizer, loss = made["model"], made["optimizer"], made["loss"]
    parts = partition.dirichlet(data.labels, clients=20, alpha=1.0)
    for _ in range(20):
        start, states = model.state_dict(), []
        start = {name: tensor.clone() for name, tensor in start.items()}
        for part in parts:
            model.load_state_dict(start)
            for _ in range(3):
                train(model, optimizer, loss, images[part], labels[part], 16)
            states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        model.load_state_dict(averaged(states, [len(part) for part in parts]))
    print(f"federated, in PyTorch: {accuracy(model, test_images, test_labels):.2%}")
    made = factory()
    model, optimizer, loss = made["model"], made["optimizer"], made["loss"]
    for _ in range(20):
        train(model, optimizer, loss, images, labels, 16)
    print(f"on all rows at once: {accuracy(model, test_images, test_labels):.2%}")
