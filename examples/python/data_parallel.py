"""Data-parallel training: several processes, each with a part of every batch, average their gradients.

    pip install ./python torch
    python examples/python/data_parallel.py --ranks 2

Each rank infers on its own samples and averages `p.grad` with the others by torch.distributed (gloo), so that all take the
same steps. The loss is a mean over a rank's own samples, so that each of these pulls its beliefs more than it would in one
process with the whole batch; with `reduction="sum"` it pulls them the same.
"""

import argparse
import os
import time

import torch
import torch.distributed as distributed
import torch.multiprocessing as multiprocessing
from torch import nn

from predictive_coding import Dataset
from predictive_coding.torch import PCInfer

BATCH = 64
EPOCHS = 10


def work(rank, ranks, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(288, 50), nn.ReLU()),
        nn.Linear(50, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss_fun = nn.CrossEntropyLoss()
    train, test = Dataset.digits()
    started = time.perf_counter()
    for epoch in range(1, EPOCHS + 1):
        # All ranks draw the same batches, and take every so many samples of them.
        for x, y in train.batches(BATCH, seed=0, epoch=epoch):
            if len(y) < BATCH:
                continue
            X, Y = torch.from_numpy(x[rank::ranks].copy()), torch.from_numpy(y[rank::ranks].copy())
            PCInfer(model, loss_fun, X, Y, "Strict", eta=0.1, n=20)
            for parameter in model.parameters():
                distributed.all_reduce(parameter.grad)
                parameter.grad /= ranks
            optimizer.step()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    for weight in weights:
        distributed.broadcast(weight, src=0)
    same = all(torch.equal(weight, parameter) for weight, parameter in zip(weights, model.parameters()))
    with torch.no_grad():
        found = model(torch.tensor(test.images)).argmax(1)
    accuracy = (found == torch.tensor(test.targets)).float().mean()
    # In one piece, so that the lines of the ranks stay apart.
    print(
        f"rank {rank}: {time.perf_counter() - started:.1f} s, test accuracy {accuracy:.2%}, "
        f"weights {'as' if same else 'not as'} rank 0's\n",
        end="",
        flush=True,
    )
    distributed.destroy_process_group()
    if not same:
        raise SystemExit("the ranks went apart")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--port", type=int, default=29511)
    arguments = parser.parse_args()
    multiprocessing.spawn(work, args=(arguments.ranks, arguments.port), nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
