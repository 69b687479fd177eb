"""Whole steps of predictive coding in PyTorch: a forward pass, n iterations, parameter gradients.

A model is a sequence of layers f_1 .. f_L, f[0] to f[L - 1] here; v[l] is the input of f[l], so v[0]
is x, which is clamped, and e[l] is the error of f[l]'s output. Every step returns the loss of the
forward pass and a gradient for each of `model.parameters()`, in their order.

`strict` and `fixed_prediction` are as fast as eager PyTorch was found to allow: a layer is evaluated
once per iteration, or once at all, for its prediction and its vector-Jacobian product together; the
products of all layers are asked for in one call; the first layer is evaluated once and nothing is
pulled back through it; parameter gradients are formed after the last iteration.

`torch2pc_strict` and `torch2pc_fixed_prediction` are a re-implementation of the same sequence of
operations as in Torch2PC (TorchSeq2PC.py), the software published with Rosenbaum's "On the
relationship between predictive coding and backpropagation" (PLoS ONE 17(3), e0266102, 2022): every
iteration evaluates a layer anew for its error and again inside of its vector-Jacobian product, with
the parameters in the graph; fixed-prediction pulls errors back to x as well; and each parameter has
its gradient from a call of its own.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.autograd.functional import vjp

Loss = Callable[[Tensor, Tensor], Tensor]
Step = tuple[Tensor, Sequence[Tensor]]


def mse(output: Tensor, labels: Tensor) -> Tensor:
    """Mean over all elements, labels as one-hot rows."""
    return nn.functional.mse_loss(output, nn.functional.one_hot(labels, output.shape[1]).to(output.dtype))


def backpropagation(model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor) -> Step:
    value = loss(model(x), y)
    return value.detach(), grad(value, list(model.parameters()))


def strict(model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, eta: float, iterations: int) -> Step:
    v, predictions = separately(model, x)
    beliefs, upper = v[1:], model[1:]
    value = loss(predictions[-1].detach(), y)
    for _ in range(iterations):
        top = grad(loss(predictions[-1], y), predictions[-1])[0]
        with torch.no_grad():
            e = [prediction - belief for prediction, belief in zip(predictions, beliefs)] + [top]
        pulled = grad(predictions[1:], beliefs, e[1:])
        with torch.no_grad():
            for belief, error, pull in zip(beliefs, e, pulled):
                belief.add_(error - pull, alpha=eta)
        predictions[1:] = [layer(belief) for layer, belief in zip(upper, beliefs)]
    return value, grad(predictions, list(model.parameters()), e)


def fixed_prediction(model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, eta: float, iterations: int) -> Step:
    """In the errors alone: as e[l] is v-hat_l - v_l, v_l += eta (e[l] - pulled) moves it to a mean with `pulled`."""
    v, predictions = separately(model, x)
    value = loss(predictions[-1], y)
    top = grad(value, predictions[-1])[0]
    moved = [torch.zeros_like(belief) for belief in v[1:]]
    for _ in range(iterations):
        e = [*moved, top]
        pulled = grad(predictions[1:], v[1:], e[1:], retain_graph=True)
        moved = [torch.lerp(error, pull, eta) for error, pull in zip(e, pulled)]
    return value.detach(), grad(predictions, list(model.parameters()), e)


def separately(model: nn.Sequential, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The layers' inputs and outputs of a forward pass, every layer with a graph of its own."""
    v, predictions = [x], []
    for layer in model:
        predictions.append(layer(v[-1]))
        v.append(predictions[-1].detach().clone().requires_grad_())
    return v[:-1], predictions


def torch2pc_strict(model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, eta: float, iterations: int) -> Step:
    v, value, _ = torch2pc_forward(model, loss, x, y)
    last = len(model) - 1
    e = [None] * len(model)
    for _ in range(iterations):
        prediction = model[last](v[last])
        e[last] = grad(loss(prediction, y), prediction)[0]
        for l in reversed(range(last)):
            e[l] = model[l](v[l]) - v[l + 1]
            _, pulled = vjp(model[l + 1], v[l + 1], e[l + 1])
            v[l + 1] = v[l + 1] + eta * (e[l] - pulled)
        v, e = cut_off(v), cut_off(e)
    return value, torch2pc_gradients(model, v, e)


def torch2pc_fixed_prediction(
    model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor, eta: float, iterations: int
) -> Step:
    activations, value, top = torch2pc_forward(model, loss, x, y)
    # Here the error at x, which nothing predicts, comes first.
    v, e = cut_off(activations), [None] * len(model) + [top]
    for _ in range(iterations):
        for l in reversed(range(len(model))):
            e[l] = activations[l] - v[l]
            _, pulled = vjp(model[l], activations[l], e[l + 1])
            v[l] = v[l] + eta * (e[l] - pulled)
        v, e = cut_off(v), cut_off(e)
    return value, torch2pc_gradients(model, activations, e[1:])


def torch2pc_forward(model: nn.Sequential, loss: Loss, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """The layers' inputs, the loss and its derivative by the output."""
    v = [x]
    for layer in model:
        v.append(layer(v[-1]))
    value = loss(v[-1], y)
    return v[:-1], value.detach(), grad(value, v[-1])[0]


def cut_off(tensors: list[Tensor]) -> list[Tensor]:
    """Copies without the graph that they came from."""
    return [tensor.detach().clone() for tensor in tensors]


def torch2pc_gradients(model: nn.Sequential, v: list[Tensor], e: list[Tensor]) -> list[Tensor]:
    gradients = []
    for layer, start, error in zip(model, v, e):
        output = layer(start.detach().clone().requires_grad_())
        gradients += [grad(output, parameter, error, retain_graph=True)[0] for parameter in layer.parameters()]
    return gradients
