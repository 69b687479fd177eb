"""How near the gradients of each method come to backpropagation's, which torch.autograd computes in float64.

    pip install ./python torch
    python examples/python/compare_gradients.py

For each parameter: |gradient - backpropagation's| / |backpropagation's|, and the angle between the two. Exact is
backpropagation, and what is left of it is the rounding of float32. Fixed prediction with eta = 1 and as many iterations as
layers is backpropagation too. Strict is not.
"""

import copy
import math

import torch
from torch import nn

from predictive_coding import Dataset
from predictive_coding.torch import PCInfer

RUNS = {
    "Exact": ("Exact", {}),
    "FixedPred (1, 4)": ("FixedPred", {"eta": 1.0, "n": 4}),
    "FixedPred (0.1, 20)": ("FixedPred", {"eta": 0.1, "n": 20}),
    "Strict (0.1, 20)": ("Strict", {"eta": 0.1, "n": 20}),
}


def main():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten()),
        nn.Sequential(nn.Linear(128, 30), nn.Tanh()),
        nn.Linear(30, 10),
    )
    train, _ = Dataset.digits()
    X, Y = torch.tensor(train.images[:64]), torch.tensor(train.targets[:64])
    loss_fun = nn.CrossEntropyLoss()

    twin = copy.deepcopy(model).double()
    loss_fun(twin(X.double()), Y).backward()

    print(f"{'parameter':12}" + "".join(f"{name:>24}" for name in RUNS))
    columns = []
    for ErrType, settings in RUNS.values():
        PCInfer(model, loss_fun, X, Y, ErrType, **settings)
        columns.append([compare(p.grad, q.grad) for p, q in zip(model.parameters(), twin.parameters())])
    for (name, _), cells in zip(model.named_parameters(), zip(*columns)):
        print(f"{name:12}" + "".join(f"{cell:>24}" for cell in cells))


def compare(got, want):
    got, want = got.double().flatten(), want.flatten()
    cosine = torch.dot(got, want) / (got.norm() * want.norm())
    angle = math.degrees(math.acos(min(1.0, cosine.item())))
    return f"{((got - want).norm() / want.norm()).item():.1e} {angle:7.3f} deg"


if __name__ == "__main__":
    main()
