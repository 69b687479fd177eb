"""Training by any method: what the command line's `train` does, step by step."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy

from ._native import Adam, Dataset, LearningRate, Network, Optimizer, Parameters, Session
from .methods import Method, Strict

__all__ = ["evaluate", "train"]


def train(
    network: Network,
    dataset: Dataset,
    method: Method = Strict(on_divergence="shrink"),
    *,
    parameters: Optional[Parameters] = None,
    optimizer: Optional[Optimizer] = None,
    rate: Optional[LearningRate] = None,
    epochs: int = 1,
    batch: int = 64,
    seed: int = 0,
    test: Optional[Dataset] = None,
    clip: Optional[float] = None,
    threads: Optional[int] = None,
    after_step: Optional[Callable[[Dict[str, Any], Session], Optional[bool]]] = None,
) -> Tuple[Parameters, List[Dict[str, Any]]]:
    """Trains a network; the same steps, to the last bit, as those of `python -m predictive_coding train`.

    Parameters
    ----------
    network : Network
    dataset : Dataset
        The samples to train on.
    method : Exact, FixedPrediction, Strict or ErrorBased
        One that leaves the parameters to the optimiser.
    parameters : Parameters, optional
        What training starts from and changes; without them `network.initialize(seed)`.
    optimizer : Optimizer, optional
        Without one `Adam(parameters, lr=1e-3)`.
    rate : LearningRate, optional
        The learning rate of each step; without one the optimiser's own.
    epochs, batch, seed : int
        Passes over the data set, samples of a step, and the seed of the order of the samples and the masks of dropout.
    test : Dataset, optional
        What is evaluated after every epoch.
    clip : float, optional
        Gradients of a larger norm are scaled down to it.
    threads : int, optional
        As of `Session`.
    after_step : callable, optional
        Called as `after_step(record, session)`; training ends early if it returns False.

    Returns
    -------
    parameters : Parameters
    history : list of dict
        A record for each step: `step` and `epoch`, from 1, and the `loss` of the batch before the step; at the end of an
        epoch also `test_loss` and `test_accuracy`, if there is a test set.

    Raises
    ------
    DivergenceError
        If a relaxation diverges and the method says that it is to stop.
    FloatingPointError
        If loss or gradients are no longer finite.
    """
    parameters = network.initialize(seed) if parameters is None else parameters
    optimizer = Adam(parameters, lr=1e-3) if optimizer is None else optimizer
    session = Session(network, min(batch, len(dataset)), method, dropout_seed=seed, threads=threads)
    history: List[Dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        batches = dataset.batches(batch, seed=seed, epoch=epoch)
        for left, (x, y) in zip(range(len(batches) - 1, -1, -1), batches):
            loss = session.infer(parameters, x, y)
            gradients = session.gradients
            if not numpy.isfinite(loss) or not all(numpy.isfinite(gradient).all() for gradient in gradients.values()):
                raise FloatingPointError(
                    f"step {len(history) + 1}, epoch {epoch}: the loss is {loss} and the gradients are not all finite; "
                    "try a smaller learning rate"
                )
            if clip is not None:
                session.clip_gradients(clip)
            if rate is not None:
                optimizer.lr = rate.at(len(history))
            optimizer.step(parameters, gradients)
            record = {"step": len(history) + 1, "epoch": epoch, "loss": loss}
            if left == 0 and test is not None:
                record["test_loss"], record["test_accuracy"] = evaluate(session, parameters, test)
            history.append(record)
            if after_step is not None and after_step(record, session) is False:
                return parameters, history
    return parameters, history


def evaluate(session: Session, parameters: Parameters, dataset: Dataset) -> Tuple[float, float]:
    """Loss and accuracy of parameters over a data set.

    Returns
    -------
    loss : float
        That of the network over all samples.
    accuracy : float
        The share of samples whose largest output is that of their label; NaN where targets are values.
    """
    images, targets = dataset.images, dataset.targets
    labels = targets.ndim == 1
    losses, sizes, correct = [], [], 0
    for start in range(0, len(dataset), session.batch):
        y = targets[start : start + session.batch]
        losses.append(session.forward(parameters, images[start : start + session.batch], y))
        sizes.append(len(y))
        if labels:
            outputs = session.get("activation", len(session.network))
            correct += int((outputs.argmax(axis=1) == y).sum())
    loss = numpy.average(losses, weights=sizes) if session.network.reduction == "mean" else numpy.sum(losses)
    return float(loss), correct / len(dataset) if labels else float("nan")
