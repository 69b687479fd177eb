"""PyTorch's DataLoader and optimiser around `infer`, in about the time of the library's own `train`.

    pip install ./python torch
    python examples/python/training_loop.py --data DIR        # MNIST
    python examples/python/training_loop.py                   # the digits of 8 x 8 pixels that the package has

Three settings make the difference. PyTorch computes on one thread, because its other threads would wait actively between
two operations and take the cores from the library, which has its own threads. The loader draws whole batches. And the
optimiser is a fused one, which takes one pass over each parameter instead of ten.
"""

import argparse
import os
import time

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import predictive_coding as pc
from predictive_coding.torch import infer, set_num_threads

METHOD = pc.Strict(eta=0.02, iterations=20)
LOSS = nn.CrossEntropyLoss()


def build(channels, size):
    torch.manual_seed(0)
    side = ((size - 2) // 2 - 2) ** 2
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(channels, 10, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(10, 5, 3), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(5 * side, 50), nn.ReLU()),
        nn.Sequential(nn.Linear(50, 30), nn.ReLU()),
        nn.Linear(30, 10),
    )


def loop(model, train, batch, epochs):
    """Trains by PyTorch's loader and optimiser, and returns the seconds."""
    data = TensorDataset(torch.tensor(train.images), torch.tensor(train.targets))
    sampler = BatchSampler(RandomSampler(data), batch, drop_last=False)
    loader = DataLoader(data, sampler=sampler, batch_size=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    started = time.perf_counter()
    for _ in range(epochs):
        for X, Y in loader:
            infer(model, LOSS, X, Y, METHOD)
            optimizer.step()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of MNIST; without it the digits of the package")
    parser.add_argument("--epochs", type=int, help="default: 1 with MNIST, else 20")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_num_threads(arguments.threads)
    train, test = pc.Dataset.mnist(arguments.data) if arguments.data else pc.Dataset.digits()
    epochs = arguments.epochs or (1 if arguments.data else 20)
    batch = 300 if arguments.data else 64

    model = build(train.shape[0], train.shape[1])
    network = pc.Network.from_torch(model, LOSS, train.shape)
    seconds = loop(model, train, batch, epochs)
    with torch.no_grad():
        accuracy = (model(torch.tensor(test.images)).argmax(1) == torch.tensor(test.targets)).float().mean().item()
    print(f"PyTorch's loop  {seconds:6.2f} s, test accuracy {accuracy:.2%}")

    parameters = network.initialize()
    optimizer = pc.Adam(parameters, lr=2e-3)
    started = time.perf_counter()
    pc.train(
        network, train, METHOD, parameters=parameters, optimizer=optimizer, epochs=epochs, batch=batch,
        threads=arguments.threads,
    )  # fmt: skip
    own = time.perf_counter() - started
    session = pc.Session(network, batch, METHOD, threads=arguments.threads)
    _, accuracy = pc.evaluate(session, parameters, test)
    print(f"train           {own:6.2f} s, test accuracy {accuracy:.2%}")
    print(f"ratio           {seconds / own:6.2f}")


if __name__ == "__main__":
    main()
