#!/usr/bin/env python3
"""Measures the Python package: against Torch2PC's sequence of operations, against the program, and its own overhead.

    cargo build --release
    peers/bin/pip install -r benches/peers/requirements.txt ./python
    peers/bin/python benches/peers/python_calls.py calls
    peers/bin/python benches/peers/python_calls.py overhead
    peers/bin/python benches/peers/python_calls.py training --data DIR

calls: seconds of a call of PCInfer, and of Torch2PC's three methods by its own sequence of operations, in one process,
taking turns; and for both the largest relative 2-norm error of the gradients of a parameter against float64, for the CIFAR
network on a few samples that are clear of kinks, as steps.py chooses them.

overhead: one sample of the network 784-128-10. What a call takes from Python, less what the same call takes in the program:
least of 5 medians over 10,000 calls of each, taking turns.

training: an epoch of MNIST by strict, with PyTorch's DataLoader and a fused Adam around `infer`, or around PCInfer, which
copies beliefs and errors, against the program's `train`, taking turns. All are the seconds of the steps, evaluations not
counted. PyTorch has one thread (`--torch-threads`): more would wait actively and take cores from the library's.
"""

import copy
import json
import statistics
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import torch_steps
from harness import PAUSE, call, call_json, check_binary, cpu, markdown, parser, settle_memory
from predictive_coding import Dataset, Session, Strict
from predictive_coding.torch import PCInfer, infer, network, set_num_threads, tensors
from steps import CANDIDATES, NETWORKS, PAPER, build, clear_of_kinks

STEP = {"eta": 0.1, "n": 20}
# In training by Adam steps of 0.1 come to diverge; a step costs the same.
TRAINING_STEP = {"eta": 0.02, "n": 20}


def torch2pc(model, loss_fun, X, Y, ErrType):
    """Torch2PC's gradients, in its sequence of operations."""
    if ErrType == "Exact":
        # Every error is asked for by itself, and every gradient from a new evaluation of its layer.
        vhat, loss = [X], None
        for layer in model:
            vhat.append(layer(vhat[-1]))
        loss = loss_fun(vhat[-1], Y)
        e = [torch.autograd.grad(loss, value, retain_graph=True)[0] for value in vhat[1:]]
        return torch_steps.torch2pc_gradients(model, vhat[:-1], e)
    step = torch_steps.torch2pc_strict if ErrType == "Strict" else torch_steps.torch2pc_fixed_prediction
    return step(model, loss_fun, X, Y, *STEP.values())[1]


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def least(work, times):
    time.sleep(PAUSE)
    return min(seconds(work) for _ in range(times))


def error(got, want):
    return max(((g.double() - w).norm() / w.norm()).item() for g, w in zip(got, want))


def calls(arguments):
    loss_fun, rows = nn.CrossEntropyLoss(), []
    for name in PAPER:
        settings = NETWORKS[name]
        large = name != "mnist"
        torch.manual_seed(1)
        description = tomllib.loads(settings.model.read_text())
        model = build(description)
        X, Y = torch.rand(settings.batch, *description["input"]), torch.randint(0, 10, (settings.batch,))
        x, y = X, Y
        if large:
            x = clear_of_kinks(model, torch.rand(CANDIDATES * settings.compared, *description["input"]), settings.compared)
            y = Y[: settings.compared]
        twin = copy.deepcopy(model).double()
        for ErrType in ("Exact", "FixedPred", "Strict"):
            print(name, ErrType, file=sys.stderr, flush=True)
            want = torch2pc(twin, loss_fun, x.double(), y, ErrType)
            theirs = error(torch2pc(model, loss_fun, x, y, ErrType), want)
            PCInfer(model, loss_fun, x, y, ErrType, **STEP)
            ours = error([p.grad for p in model.parameters()], want)
            PCInfer(model, loss_fun, X, Y, ErrType, **STEP)
            times = {"ours": [], "theirs": []}
            for _ in range(1 if large else 5):
                times["ours"].append(least(lambda: PCInfer(model, loss_fun, X, Y, ErrType, **STEP), 1 if large else 5))
                times["theirs"].append(least(lambda: torch2pc(model, loss_fun, X, Y, ErrType), 1))
            here, there = min(times["ours"]), min(times["theirs"])
            cells = [f"{name}, {settings.batch}", ErrType, f"{there:.3g}", f"{here:.3g}", f"{there / here:.1f}"]
            rows.append([*cells, f"{theirs:.1e}", f"{ours:.1e}"])
    print(f"{cpu()}, {arguments.threads} threads, PyTorch {torch.__version__}. eta 0.1, n 20.\n")
    header = ["network, batch", "method", "Torch2PC, s", "PCInfer, s", "ratio", "its error", "error here"]
    print(markdown(header, 2, rows))


def overhead(arguments):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Sequential(nn.Linear(784, 128), nn.ReLU()), nn.Sequential(nn.Linear(128, 10)))
    loss_fun, X, Y = nn.CrossEntropyLoss(), torch.rand(1, 784), torch.tensor([3])
    described = network(model, loss_fun, (784,))
    session, x, y = Session(described, 1, Strict(*STEP.values()), threads=arguments.threads), X.numpy(), Y.numpy()
    parameters = described.initialize()
    for (_, tensor), array in zip(parameters.items(), tensors(model)):
        tensor[...] = array

    def median(work, times=10_000):
        return statistics.median(seconds(work) for _ in range(times))

    found = {"program": [], "Session.infer": [], "PCInfer": []}
    with tempfile.TemporaryDirectory() as directory:
        model_file, weights, batch = (Path(directory) / name for name in ("model.toml", "w.safetensors", "b.safetensors"))
        model_file.write_text(described.to_toml())
        save_file(dict(zip(described.parameters, model.state_dict().values())), weights)
        save_file({"x": X, "y": Y}, batch)
        command = ["infer", "--model", model_file, "--weights", weights, "--batch", batch, "--method", "strict"]
        command += ["--eta", STEP["eta"], "--iterations", STEP["n"], "--threads", arguments.threads, "--repeat", 10_000]
        for _ in range(5):
            found["program"].append(call_json(arguments.binary, *command)["median_seconds"])
            found["Session.infer"].append(median(lambda: session.infer(parameters, x, y)))
            found["PCInfer"].append(median(lambda: PCInfer(model, loss_fun, X, Y, "Strict", **STEP)))
    print(f"{cpu()}, {arguments.threads} threads. MLP 784-128-10, one sample, strict (0.1, 20); least of 5 medians.\n")
    rows = [[name, f"{1e6 * min(times):.1f}", f"{1e6 * (min(times) - min(found['program'])):.1f}"] for name, times in found.items()]
    print(markdown(["call", "microseconds", "over the program's"], 1, rows))


def training(arguments):
    train, _ = Dataset.mnist(arguments.data)
    data = TensorDataset(torch.tensor(train.images), torch.tensor(train.targets))
    loss_fun, times = nn.CrossEntropyLoss(), {"train": [], "PCInfer": [], "infer": []}
    description = tomllib.loads(NETWORKS["mnist"].model.read_text())
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as directory:
            options = ["--dataset", "mnist", "--data", arguments.data, "--method", "strict"]
            options += ["--eta", TRAINING_STEP["eta"], "--iterations", TRAINING_STEP["n"], "--epochs", 1, "--threads", arguments.threads, "--out", directory]
            call(arguments.binary, "train", *options)
            times["train"].append(json.loads((Path(directory) / "run.json").read_text())["seconds"])
        for name, step in (
            ("PCInfer", lambda model, X, Y: PCInfer(model, loss_fun, X, Y, "Strict", **TRAINING_STEP)),
            ("infer", lambda model, X, Y: infer(model, loss_fun, X, Y, Strict(*TRAINING_STEP.values()))),
        ):
            torch.manual_seed(0)
            model = build(description)
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
            loader = DataLoader(data, sampler=BatchSampler(RandomSampler(data), 300, drop_last=False), batch_size=None)

            def epoch():
                for X, Y in loader:
                    step(model, X, Y)
                    optimizer.step()

            times[name].append(seconds(epoch))
    print(f"{cpu()}, {arguments.threads} threads. An epoch of MNIST by strict (0.02, 20), batches of 300; least of {arguments.rounds}.\n")
    least = min(times["train"])
    rows = [[name, f"{min(found):.2f}", f"{min(found) / least:.2f}"] for name, found in times.items()]
    print(markdown(["an epoch by", "seconds", "ratio"], 1, rows))


def main():
    options = parser(__doc__.splitlines()[0])
    options.add_argument("what", choices=["calls", "overhead", "training"])
    options.add_argument("--threads", type=int, default=2, help="threads of the library")
    options.add_argument("--torch-threads", type=int, help="threads of PyTorch; default: 1 for training, else --threads")
    options.add_argument("--data", help="folder of MNIST")
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.torch_threads or (1 if arguments.what == "training" else arguments.threads))
    set_num_threads(arguments.threads)
    if arguments.what != "calls":
        check_binary(arguments.binary)
    settle_memory(arguments)
    {"calls": calls, "overhead": overhead, "training": training}[arguments.what](arguments)


if __name__ == "__main__":
    main()
