"""PyTorch's modules and tensors: Torch2PC's interface, and networks of modules.

Torch2PC is the software of Rosenbaum's "On the relationship between predictive coding and backpropagation" (PLoS ONE
17(3), e0266102, 2022). Its programs run with one line changed:

    from predictive_coding.torch import PCInfer

Nothing here imports PyTorch before it is given a module of it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

import numpy
from numpy.typing import NDArray

from ._native import Network
from .methods import Method, Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ._calls import Results

__all__ = ["PCInfer", "clear_sessions", "infer", "network", "set_num_threads", "tensors"]


def PCInfer(
    model: nn.Sequential,
    LossFun: nn.Module,
    X: Tensor,
    Y: Tensor,
    ErrType: str,
    eta: float = 0.1,
    n: Optional[int] = 20,
    vinit: Optional[Sequence[Optional[Tensor]]] = None,
) -> Results:
    """One step of predictive coding without the optimiser, as Torch2PC's function of this name.

    Sets `p.grad` of every parameter that requires a gradient, to a new tensor, and returns `vhat, loss, dLdy, v, epsilon`.

    Parameters
    ----------
    model : torch.nn.Sequential
        Each of its L modules is a layer; a layer of several modules is a `Sequential` in it. Parameters are float32 on
        the CPU, and are read where they lie if they are contiguous.
    LossFun : torch.nn.CrossEntropyLoss or torch.nn.MSELoss
        With the reduction "mean" or "sum".
    X : torch.Tensor
        float32 `[batch, ...]` on the CPU.
    Y : torch.Tensor
        Class labels, int64 `[batch]`; or for `MSELoss` float32 of the outputs' shape.
    ErrType : str
        "Strict", "FixedPred" or "Exact".
    eta, n : float, int
        Step size and number of iterations; not used by "Exact". `n=None` stands for L.
    vinit : list of torch.Tensor, optional
        The beliefs that "Strict" starts at instead of `vhat`, L + 1 of them; the first and the last are not used, and None
        stands for `vhat`. Torch2PC takes this argument and ignores it.

    Returns
    -------
    vhat : list of torch.Tensor
        L + 1 activations of the forward pass, float32 `[batch, ...]`; `vhat[0]` is `X`.
    loss : torch.Tensor
        The loss of the forward pass, of no axis.
    dLdy : torch.Tensor
        The gradient of the loss by `vhat[L]`.
    v, epsilon : list
        L + 1 beliefs and prediction errors. For "Strict" `epsilon[0]` is None, for "Exact" also `v[0]`.

    Nothing that is returned has a graph. A relaxation that diverges gives a `RuntimeWarning`, and what it came to.
    """
    results: Results = _calls().pc_infer(model, LossFun, X, Y, ErrType, eta, n, vinit)
    return results


def infer(model: nn.Sequential, LossFun: nn.Module, X: Tensor, Y: Tensor, method: Method = Strict()) -> Tensor:
    """As `PCInfer`, by any method, for training: sets `p.grad` and returns the loss alone.

    Activations, beliefs and errors are not copied. `method` is one of those of `Session.infer`; where it says that a
    divergence is to stop, `DivergenceError` is raised and no gradient is set.
    """
    loss: Tensor = _calls().infer(model, LossFun, X, Y, method)
    return loss


def set_num_threads(threads: Optional[int]) -> None:
    """Sets the number of threads that `PCInfer` and `infer` compute on, apart from PyTorch's own.

    None, as at first, stands for `torch.get_num_threads()`.
    """
    _calls().set_num_threads(threads)


def clear_sessions() -> None:
    """Gives the memory of the sessions back that wait for another call of `PCInfer`; they are planned anew."""
    _calls().clear_sessions()


def network(model: nn.Sequential, loss: nn.Module, input_shape: Sequence[int]) -> Network:
    """`Network.from_torch`: the network of a `torch.nn.Sequential` whose modules are the layers.

    Parameters
    ----------
    model : torch.nn.Sequential
        As `PCInfer` takes it.
    loss : torch.nn.CrossEntropyLoss or torch.nn.MSELoss
        With the reduction "mean" or "sum".
    input_shape : sequence of int
        The shape of one sample.
    """
    from . import _modules

    return _modules.Model.of(model).network(_modules.loss_of(loss), input_shape)


def tensors(model: nn.Sequential) -> List[NDArray[numpy.float32]]:
    """The parameters of a model as numpy arrays over the same memory, in the order of its network's.

    What `Session.infer` takes for parameters.
    """
    from . import _modules

    return _modules.Model.of(model).arrays()


@functools.lru_cache(maxsize=None)
def _calls() -> Any:
    """What calls PyTorch, imported once."""
    from . import _calls as module

    return module
