"""Calls on PyTorch's modules and tensors, by sessions that are kept. Imported once there is a model to read."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any, List, Optional, Sequence, Tuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._modules import Loss, Model, input_of, loss_of, targets_of, values_of
from ._native import DivergenceError, Session
from .methods import Exact, FixedPrediction, Method, Strict

SESSIONS_KEPT = 8
"""Sessions that wait for another call, at most."""

Results = Tuple[List[Tensor], Tensor, Tensor, List[Optional[Tensor]], List[Optional[Tensor]]]
"""vhat, loss, dLdy, v, epsilon."""

_sessions: OrderedDict[Any, Session] = OrderedDict()
_threads: Optional[int] = None
"""Those of PyTorch, if there is no number."""


def clear_sessions() -> None:
    _sessions.clear()


def set_num_threads(threads: Optional[int]) -> None:
    global _threads
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected at least 1")
    _threads = threads


def number_of_threads() -> int:
    return torch.get_num_threads() if _threads is None else _threads


def _planned(read: Model, loss: Loss, shape: Tuple[int, ...], method: Method, passes_on: bool = False) -> Session:
    network, seed = read.network(loss, shape[1:], passes_on), 0 if read.drops else None
    return Session(network, shape[0], method, dropout_seed=seed, threads=number_of_threads())


def _keep(key: Any, session: Session) -> None:
    _sessions[key] = session
    while len(_sessions) > SESSIONS_KEPT:
        _sessions.popitem(last=False)


def _infer(
    session: Session, read: Model, x: NDArray[Any], y: NDArray[Any], start: Optional[Sequence[Any]] = None
) -> float:
    if read.drops:
        # Masks follow torch.manual_seed, as those of PyTorch do.
        session.set_dropout_step(int(torch.randint(2**63 - 1, ())))
    return session.infer(read.arrays(), x, y, start=start)


def _set_gradients(session: Session, read: Model) -> None:
    for parameter, gradient in zip(read.parameters, session.take_gradients()):
        if parameter.tensor.requires_grad:
            parameter.tensor.grad = torch.from_numpy(gradient)


def pc_infer(
    model: nn.Sequential,
    loss_fun: nn.Module,
    X: Tensor,
    Y: Tensor,
    ErrType: str,
    eta: float,
    n: Optional[int],
    vinit: Optional[Sequence[Optional[Tensor]]],
) -> Results:
    read, loss, x, y = Model.of(model), loss_of(loss_fun), input_of(X), targets_of(Y)
    depth = len(read.places)
    iterations = depth if n is None else n
    start = None if vinit is None else _start(vinit, ErrType, depth)
    # Torch2PC's fixed prediction has an error at the input too: that of a layer which passes it on.
    first = int(ErrType == "FixedPred")
    key = (read.structure, loss, x.shape, ErrType, eta, iterations, number_of_threads())
    session = _sessions.pop(key, None)
    if session is None:
        session = _planned(read, loss, x.shape, _method(ErrType, eta, iterations), bool(first))
    try:
        try:
            value = _infer(session, read, x, y, start)
        except DivergenceError as divergence:
            warnings.warn(str(divergence), RuntimeWarning, stacklevel=3)
            value = session.loss
        _set_gradients(session, read)

        def get(quantity: str, layer: int) -> NDArray[numpy.float32]:
            return session.get(quantity, layer + first)

        # All by numpy: PyTorch would wake threads for it, which then take cores for a while.
        activations = [x, *(get("activation", layer) for layer in range(1, depth + 1))]
        errors = [get("error", layer) for layer in range(1, depth + 1)]
        vhat = [X, *map(torch.from_numpy, activations[1:])]
        epsilon: List[Optional[Tensor]] = [None, *map(torch.from_numpy, errors)]
        v: List[Optional[Tensor]] = [None, *(torch.from_numpy(get("belief", layer)) for layer in range(1, depth))]
        if ErrType == "Exact":
            v.append(torch.from_numpy(activations[-1] - errors[-1]))
            dLdy = errors[-1].copy()
        else:
            v.append(torch.from_numpy(activations[-1].copy()))
            if first:
                v[0], epsilon[0] = torch.from_numpy(get("belief", 0)), torch.from_numpy(get("error", 0))
                dLdy = errors[-1]
            else:
                v[0] = torch.from_numpy(x.copy())
                dLdy = session.loss_gradient()
        return vhat, _scalar(value), torch.from_numpy(dLdy), v, epsilon
    finally:
        _keep(key, session)


def _method(ErrType: str, eta: float, iterations: int) -> Method:
    if ErrType == "Strict":
        return Strict(eta, iterations)
    if ErrType == "FixedPred":
        return FixedPrediction(eta, iterations)
    if ErrType == "Exact":
        return Exact()
    raise ValueError(f'ErrType is {ErrType!r}, expected "FixedPred", "Strict" or "Exact"')


def _start(vinit: Sequence[Optional[Tensor]], ErrType: str, depth: int) -> List[Optional[NDArray[numpy.float32]]]:
    if ErrType in ("FixedPred", "Exact"):
        raise ValueError(f'vinit is given, but "{ErrType}" starts at vhat; leave it out')
    if len(vinit) != depth + 1:
        raise ValueError(f"vinit has {len(vinit)} entries, expected {depth + 1}: one more than layers")
    return [None if v is None else values_of("vinit", v) for v in vinit[1:-1]]


def infer(model: nn.Sequential, loss_fun: nn.Module, X: Tensor, Y: Tensor, method: Method) -> Tensor:
    read, loss, x, y = Model.of(model), loss_of(loss_fun), input_of(X), targets_of(Y)
    key = (read.structure, loss, x.shape, method, number_of_threads())
    session = _sessions.pop(key, None)
    if session is None:
        session = _planned(read, loss, x.shape, method)
    try:
        value = _infer(session, read, x, y)
        _set_gradients(session, read)
    finally:
        _keep(key, session)
    return _scalar(value)


def _scalar(value: float) -> Tensor:
    return torch.from_numpy(numpy.array(value, numpy.float32))
