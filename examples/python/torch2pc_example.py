"""Torch2PC's example: a convolutional network that learns digits by predictive coding, with PyTorch's modules and optimiser.

    pip install ./python torch matplotlib
    python examples/python/torch2pc_example.py --data DIR        # MNIST
    python examples/python/torch2pc_example.py                   # the digits of 8 x 8 pixels that the package has

All three methods train from the same weights and batches; the losses are drawn to torch2pc_example.png. With Torch2PC
itself, one line is another: `from Torch2PC.TorchSeq2PC import PCInfer`.
"""

import argparse
import os
import time

# PyTorch's threads that wait actively, between its steps, would take a core from the library's.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from predictive_coding import Dataset
from predictive_coding.torch import PCInfer

# By steps of 0.1, strict comes to diverge once the weights have grown.
METHODS = {"Exact": {}, "FixedPred": {"eta": 0.1, "n": 20}, "Strict": {"eta": 0.02, "n": 20}}


def build(side):
    """The network of the example, for images of side x side pixels: five layers, each a Sequential."""
    pooled = (side - 2) // 2
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(10, 5, 3), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(5 * (pooled - 2) ** 2, 50), nn.ReLU()),
        nn.Sequential(nn.Linear(50, 30), nn.ReLU()),
        nn.Sequential(nn.Linear(30, 10)),
    )


def tensors(dataset):
    return TensorDataset(torch.tensor(dataset.images), torch.tensor(dataset.targets))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of MNIST; without it the digits of the package")
    parser.add_argument("--epochs", type=int, help="default: 1 with MNIST, else 20")
    parser.add_argument("--plot", default="torch2pc_example.png", help="where the losses are drawn, if matplotlib is there")
    arguments = parser.parse_args()
    train, test = Dataset.mnist(arguments.data) if arguments.data else Dataset.digits()
    epochs = arguments.epochs or (1 if arguments.data else 20)
    batch_size = 300 if arguments.data else 64
    X_test, Y_test = tensors(test).tensors
    loss_fun = nn.CrossEntropyLoss()
    losses = {}
    for ErrType, settings in METHODS.items():
        torch.manual_seed(0)
        model = build(train.shape[1])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
        data = tensors(train)
        # Whole batches at a time: to collect 300 images one by one takes longer than to learn from them.
        sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=True)
        loader = DataLoader(data, sampler=sampler, batch_size=None)
        started, losses[ErrType] = time.perf_counter(), []
        for _ in range(epochs):
            for X, Y in loader:
                vhat, loss, dLdy, v, epsilon = PCInfer(model, loss_fun, X, Y, ErrType, **settings)
                optimizer.step()
                losses[ErrType].append(loss.item())
        seconds = time.perf_counter() - started
        with torch.no_grad():
            accuracy = (model(X_test).argmax(1) == Y_test).float().mean()
        print(f"{ErrType:10} {seconds:6.2f} s, loss {losses[ErrType][-1]:.3f}, test accuracy {accuracy:.2%}")
    plot(losses, arguments.plot)


def plot(losses, path):
    try:
        import matplotlib
    except ImportError:
        return print("matplotlib is not installed, so that nothing is drawn")
    matplotlib.use("agg")
    from matplotlib import pyplot

    for ErrType, values in losses.items():
        pyplot.plot(values, label=ErrType)
    pyplot.ylim(bottom=0)
    pyplot.xlabel("iteration number")
    pyplot.ylabel("training loss")
    pyplot.legend()
    pyplot.savefig(path)
    print(f"drawn to {path}")


if __name__ == "__main__":
    main()
