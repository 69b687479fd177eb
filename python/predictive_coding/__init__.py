"""Predictive coding networks on the CPU, exact in float32.

>>> import numpy
>>> from predictive_coding import Adam, Network, Session, Strict
>>> network = Network.from_toml('''
... input = [4]
... loss = "cross_entropy"
... [[layer]]
... ops = [{ type = "linear", out_features = 16 }, { type = "tanh" }]
... [[layer]]
... ops = [{ type = "linear", out_features = 3 }]
... ''')
>>> parameters = network.initialize(seed=1)
>>> session = Session(network, batch=2, method=Strict(eta=0.1, iterations=20))
>>> adam = Adam(parameters, lr=1e-2)
>>> x = numpy.array([[0.1, -0.5, 0.3, 0.9], [1.0, 0.2, -0.7, 0.4]], dtype=numpy.float32)
>>> labels = numpy.array([0, 2])
>>> first = session.infer(parameters, x, labels)
>>> for _ in range(50):
...     loss = session.infer(parameters, x, labels)
...     adam.step(parameters, session.gradients)
>>> loss < first / 2
True
"""

from ._native import (
    Adam,
    AdamW,
    Dataset,
    DivergenceError,
    LearningRate,
    Network,
    Optimizer,
    Parameters,
    Session,
    Sgd,
    __version__,
    levels,
)
from .methods import (
    Automatic,
    Deviation,
    ErrorBased,
    Exact,
    FixedPrediction,
    FreeInput,
    Incremental,
    Method,
    Nudge,
    Strict,
)
from .training import evaluate, train

__all__ = [
    "Adam",
    "AdamW",
    "Automatic",
    "Dataset",
    "Deviation",
    "DivergenceError",
    "ErrorBased",
    "Exact",
    "FixedPrediction",
    "FreeInput",
    "Incremental",
    "LearningRate",
    "Method",
    "Network",
    "Nudge",
    "Optimizer",
    "Parameters",
    "Session",
    "Sgd",
    "Strict",
    "__version__",
    "evaluate",
    "levels",
    "train",
]
