"""PyTorch's modules in the words of the library. Imported once there is a model to read."""

from __future__ import annotations

import json
import re
from itertools import chain
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type
from weakref import ReferenceType, ref

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ._native import Network

Operation = Tuple[Any, ...]
"""The name of an operation, and pairs of an argument and its value."""
Loss = Tuple[str, str]
"""Name and reduction."""


class Structure:
    """The operations of each layer. Hashed once, as it is a part of every key of a session."""

    __slots__ = ("hash", "layers")

    def __init__(self, layers: Tuple[Tuple[Operation, ...], ...]) -> None:
        self.layers = layers
        self.hash = hash(layers)

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.layers == other.layers


class Parameter:
    """A tensor that the library reads, and where it belongs."""

    __slots__ = ("array", "layout", "module", "name", "place", "tensor")

    def __init__(self, place: str, module: nn.Module, name: str, tensor: Tensor) -> None:
        self.place, self.module, self.name, self.tensor = place, module, name, tensor
        self.layout: Tuple[int, torch.Size, Tuple[int, ...]] = (0, torch.Size(), ())
        """Where the tensor's memory lay when `array` was made of it, and how."""
        self.array: NDArray[numpy.float32] = numpy.empty(0, numpy.float32)

    def __str__(self) -> str:
        return f"module {self.place} ({class_of(self.module)}): {self.name}"

    def memory(self) -> NDArray[numpy.float32]:
        """Its memory, as numpy's array. Another tensor's data may have been put into it."""
        tensor = self.tensor
        if tensor._backward_hooks or tensor._post_accumulate_grad_hooks:
            raise ValueError(f"{self} has hooks, which would not be called")
        layout = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if layout != self.layout:
            self.array = values_of(str(self), tensor)
            self.layout = layout
        return self.array


class Model:
    """What a model is made of, as it was when it was read."""

    def __init__(self, model: nn.Sequential) -> None:
        self.parameters: List[Parameter] = []
        """Those that are trained, in their order, and the running statistics behind them."""
        self.places: List[List[Tuple[str, nn.Module]]] = []
        """Of each layer, the modules of its operations, and their places in the model."""
        self._hooks: List[Dict[int, Any]] = []
        self._watched: List[Tuple[Optional[nn.Module], Type[nn.Module], Dict[str, Any], Dict[str, Any]]] = []
        self._contents: List[Tuple[Dict[str, Any], str, List[int]]] = []
        # Not the model itself, which would then stay as long as what was read of it.
        self._watch(None, model, "the model", "_modules")
        running: List[Parameter] = []
        layers = []
        for index, module in enumerate(model):
            self.places.append([])
            layers.append(tuple(self._operations(module, str(index), running)))
            if not layers[-1]:
                raise ValueError(f"module {index} ({class_of(module)}) is empty, expected at least one module in it")
        if not layers:
            raise ValueError("the model is empty, expected at least one module in it")
        self.structure = Structure(tuple(layers))
        self.drops = any(operation[0] == "dropout" for operation in chain(*layers))
        self.parameters += running
        if len({id(parameter.tensor) for parameter in self.parameters}) < len(self.parameters):
            raise ValueError("the model has the same parameter in two places, expected each to be used once")

    @staticmethod
    def of(model: nn.Sequential) -> Model:
        """The model, read anew if it is not as it was."""
        if type(model) is not nn.Sequential:
            raise TypeError(f"the model is of class {class_of(model)}, expected torch.nn.Sequential")
        if any(GLOBAL_HOOKS):
            raise ValueError("there are hooks on all modules, which would not be called; remove them")
        key = id(model)
        known = _READ.get(key)
        if known is not None and known[0]() is model and not known[1]._has_changed():
            return known[1]
        read = Model(model)
        _READ[key] = ref(model, lambda gone: _forget(key, gone)), read
        return read

    def _watch(self, owner: Optional[nn.Module], module: nn.Module, place: str, contents: str) -> None:
        """Refuses hooks, and remembers what the operations of a module were read from.

        Attributes are compared with a copy, and what is in the dictionary of the name `contents` by identity.
        """
        state = module.__dict__
        hooks = [state[name] for name in HOOKS]
        if any(hooks):
            raise ValueError(f"{place} ({class_of(module)}) has hooks, which would not be called; remove them")
        if "forward" in state:
            raise ValueError(f"{place} ({class_of(module)}) has a forward of its own, which would not be called")
        self._hooks += hooks
        kept = {name: list(value) if type(value) is list else value for name, value in state.items()}
        self._watched.append((owner, type(module), state, kept))
        if state[contents] or contents == "_modules":
            self._contents.append((state, contents, list(map(id, state[contents].values()))))

    def _has_changed(self) -> bool:
        if any(self._hooks):
            return True
        try:
            for owner, kind, state, kept in self._watched:
                if state != kept or (owner is not None and type(owner) is not kind):
                    return True
        except Exception:
            # There are values that are not compared by a truth value. Those that are the same are not asked.
            return True
        for state, contents, kept_ids in self._contents:
            if list(map(id, state[contents].values())) != kept_ids:
                return True
        return False

    def _operations(self, module: nn.Module, place: str, running: List[Parameter]) -> List[Operation]:
        """The operations of a layer. Running statistics are added to `running`."""
        if type(module) is nn.Sequential:
            self._watch(module, module, f"module {place}", "_modules")
            inner = ((f"{place}.{index}", inner) for index, inner in enumerate(module))
            return [operation for at, module in inner for operation in self._operations(module, at, running)]
        training = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
        reader = None if training else READERS.get(type(module))
        if reader is None:
            raise TypeError(
                f"module {place} is of class {class_of(module)}{' in training mode' if training else ''}, expected "
                f"Sequential, {', '.join(known.__name__ for known in READERS)}"
            )
        self._watch(module, module, f"module {place}", "_parameters")
        self.places[-1].append((place, module))
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self.parameters.append(Parameter(place, module, name, parameter))
        operation = reader(Refusal(place, module), module)
        if type(module) is nn.BatchNorm2d:
            buffers = module._buffers
            self._contents.append((module.__dict__, "_buffers", list(map(id, buffers.values()))))
            for name in ("running_mean", "running_var"):
                statistics = buffers[name]
                assert statistics is not None
                running.append(Parameter(place, module, name, statistics))
        return [operation]

    def network(self, loss: Loss, input_shape: Sequence[int], passes_on: bool = False) -> Network:
        """The network; `passes_on`: whether a layer that does nothing comes first."""
        name, reduction = loss
        layers = ((("identity",),),) * passes_on + self.structure.layers
        text = [f"input = {list(map(int, input_shape))}", f'loss = {{ type = "{name}", reduction = "{reduction}" }}']
        for operations in layers:
            text += ["[[layer]]", "ops = ["]
            for kind, *arguments in operations:
                pairs = "".join(f", {key} = {json.dumps(value)}" for key, value in arguments)
                text.append(f'{{ type = "{kind}"{pairs} }},')
            text.append("]")
        try:
            made = Network.from_toml("\n".join(text) + "\n")
        except ValueError as error:
            raise self._in_words_of_modules(error, passes_on) from None
        for parameter, shape in zip(self.parameters, made.parameters.values()):
            found = tuple(parameter.tensor.shape)
            if found != shape:
                raise ValueError(f"{parameter} has shape {found}, but its input asks for {shape}")
        for layer, modules in enumerate(self.places):
            for index, (place, module) in enumerate(modules):
                # Weights would have told.
                if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
                    _check_whole(text, layer + passes_on, index, place, module)
        return made

    def _in_words_of_modules(self, error: ValueError, passes_on: bool) -> ValueError:
        """The error with a module's place and class instead of an operation's numbers."""
        found = re.match(r"(?:line \d+, )?operation (\d+)\.(\d+): (.*)", str(error), re.DOTALL)
        if not found:
            return error
        layer, operation, message = found.groups()
        place, module = self.places[int(layer) - passes_on][int(operation)]
        return ValueError(f"module {place} ({class_of(module)}): {message}")

    def arrays(self) -> List[NDArray[numpy.float32]]:
        """The parameters' memory, as numpy's arrays."""
        return [parameter.memory() for parameter in self.parameters]


def _check_whole(text: List[str], layer: int, index: int, place: str, module: nn.LayerNorm | nn.RMSNorm) -> None:
    """Refuses a normalisation of a part of a sample."""
    starts = [number for number, line in enumerate(text) if line == "[[layer]]"]
    before = text[: starts[layer] + 2 + index] + ["]"]
    whole = Network.from_toml("\n".join(before).replace('"cross_entropy"', '"mse"') + "\n").output_shape
    if tuple(module.normalized_shape) != whole:
        raise ValueError(
            f"module {place} ({class_of(module)}): normalized_shape is {tuple(module.normalized_shape)}, expected that of a "
            f"whole sample, {whole}"
        )


class Refusal:
    """Refuses what the library has not got of a module."""

    def __init__(self, place: str, module: nn.Module) -> None:
        self.place, self.module = place, module

    def unless(self, holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"module {self.place} ({class_of(self.module)}): {found}, expected {expected}")


def class_of(value: object) -> str:
    return type(value).__name__


def _pair(value: Any) -> Tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _conv2d(refusal: Refusal, module: Any) -> Operation:
    refusal.unless(module.padding_mode == "zeros", f"padding_mode is {module.padding_mode!r}", "'zeros'")
    return (
        "conv2d",
        ("out_channels", module.out_channels),
        ("kernel_size", _pair(module.kernel_size)),
        ("stride", _pair(module.stride)),
        ("padding", module.padding if isinstance(module.padding, str) else _pair(module.padding)),
        ("dilation", _pair(module.dilation)),
        ("groups", module.groups),
        ("bias", module._parameters["bias"] is not None),
    )


def _conv_transpose2d(refusal: Refusal, module: Any) -> Operation:
    _, *arguments = _conv2d(refusal, module)
    return "conv_transpose2d", ("output_padding", _pair(module.output_padding)), *arguments


def _linear(refusal: Refusal, module: Any) -> Operation:
    return "linear", ("out_features", module.out_features), ("bias", module._parameters["bias"] is not None)


def _max_pool2d(refusal: Refusal, module: Any) -> Operation:
    refusal.unless(not module.return_indices, "return_indices is True", "False")
    return (
        "max_pool2d",
        ("kernel_size", _pair(module.kernel_size)),
        ("stride", _pair(module.stride)),
        ("padding", _pair(module.padding)),
        ("dilation", _pair(module.dilation)),
        ("ceil_mode", bool(module.ceil_mode)),
    )


def _avg_pool2d(refusal: Refusal, module: Any) -> Operation:
    divisor = module.divisor_override
    return (
        "avg_pool2d",
        ("kernel_size", _pair(module.kernel_size)),
        ("stride", _pair(module.stride)),
        ("padding", _pair(module.padding)),
        ("ceil_mode", bool(module.ceil_mode)),
        ("count_include_pad", bool(module.count_include_pad)),
        *(() if divisor is None else (("divisor_override", divisor),)),
    )


def _adaptive_avg_pool2d(refusal: Refusal, module: Any) -> Operation:
    size = _pair(module.output_size)
    refusal.unless(0 not in size, f"output_size is {module.output_size}", "numbers above 0, or None to keep a size")
    return "adaptive_avg_pool2d", ("output_size", tuple(side or 0 for side in size))


def _flatten(refusal: Refusal, module: Any) -> Operation:
    whole = (module.start_dim, module.end_dim) == (1, -1)
    refusal.unless(whole, f"it flattens axes {module.start_dim} to {module.end_dim}", "1 to -1")
    return ("flatten",)


def _unflatten(refusal: Refusal, module: Any) -> Operation:
    size = module.unflattened_size
    image = len(size) == 3 and all(isinstance(side, int) and side > 0 for side in size)
    refusal.unless(module.dim == 1 and image, f"it unflattens axis {module.dim} to {tuple(size)}", "1 to three sizes")
    return "unflatten", ("size", tuple(size))


def _layer_norm(refusal: Refusal, module: Any) -> Operation:
    affine = module.elementwise_affine
    refusal.unless(not affine or module._parameters["bias"] is not None, "bias is False", "True, or no elementwise_affine")
    return "layer_norm", ("eps", float(module.eps)), ("affine", affine)


def _rms_norm(refusal: Refusal, module: Any) -> Operation:
    eps = torch.finfo(torch.float32).eps if module.eps is None else module.eps
    return "rms_norm", ("eps", float(eps)), ("affine", module.elementwise_affine)


def _group_norm(refusal: Refusal, module: Any) -> Operation:
    return "group_norm", ("num_groups", module.num_groups), ("eps", float(module.eps)), ("affine", module.affine)


def _batch_norm2d(refusal: Refusal, module: Any) -> Operation:
    refusal.unless(module._buffers["running_mean"] is not None, "track_running_stats is False", "True")
    return "batch_norm2d", ("eps", float(module.eps)), ("affine", module.affine)


def _dropout(refusal: Refusal, module: Any) -> Operation:
    return ("dropout", ("p", float(module.p))) if module.training else ("identity",)


def _hardtanh(refusal: Refusal, module: Any) -> Operation:
    return "hardtanh", ("min_val", float(module.min_val)), ("max_val", float(module.max_val))


def _softplus(refusal: Refusal, module: Any) -> Operation:
    return "softplus", ("beta", float(module.beta)), ("threshold", float(module.threshold))


READERS: Dict[Type[nn.Module], Callable[[Refusal, Any], Operation]] = {
    nn.Conv2d: _conv2d,
    nn.ConvTranspose2d: _conv_transpose2d,
    nn.Linear: _linear,
    nn.MaxPool2d: _max_pool2d,
    nn.AvgPool2d: _avg_pool2d,
    nn.AdaptiveAvgPool2d: _adaptive_avg_pool2d,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm,
    nn.BatchNorm2d: _batch_norm2d,
    nn.Dropout: _dropout,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.ReLU: lambda refusal, module: ("relu",),
    nn.LeakyReLU: lambda refusal, module: ("leaky_relu", ("negative_slope", float(module.negative_slope))),
    nn.Hardtanh: _hardtanh,
    nn.ReLU6: _hardtanh,
    nn.ELU: lambda refusal, module: ("elu", ("alpha", float(module.alpha))),
    nn.SELU: lambda refusal, module: ("selu",),
    nn.Tanh: lambda refusal, module: ("tanh",),
    nn.Sigmoid: lambda refusal, module: ("sigmoid",),
    nn.GELU: lambda refusal, module: ("gelu", ("approximate", module.approximate)),
    nn.SiLU: lambda refusal, module: ("silu",),
    nn.Softplus: _softplus,
    nn.Identity: lambda refusal, module: ("identity",),
}
"""The modules that are taken, and how each is read."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS: List[Dict[int, Any]] = [getattr(nn.modules.module, f"_global{name}", {}) for name in HOOKS]

_READ: Dict[int, Tuple[ReferenceType[nn.Sequential], Model]] = {}
"""By the identity of a model, as long as it is there."""


def _forget(key: int, gone: ReferenceType[nn.Sequential]) -> None:
    # Another model may have come to its place.
    if key in _READ and _READ[key][0] is gone:
        del _READ[key]


def loss_of(loss: nn.Module) -> Loss:
    """Name and reduction of a loss."""
    taken = "torch.nn.CrossEntropyLoss or torch.nn.MSELoss"
    if type(loss) is nn.MSELoss:
        name = "mse"
    elif type(loss) is nn.CrossEntropyLoss:
        name = "cross_entropy"
        if loss._buffers["weight"] is not None or loss.label_smoothing != 0.0 or loss.ignore_index != -100:
            raise ValueError(f"the loss has a weight, label_smoothing or ignore_index, expected {taken} without them")
    else:
        raise TypeError(f"the loss is of class {class_of(loss)}, expected {taken}")
    if loss.reduction not in ("mean", "sum"):
        raise ValueError(f"the loss has the reduction {loss.reduction!r}, expected 'mean' or 'sum'")
    state = loss.__dict__
    if any(state[name] for name in HOOKS) or "forward" in state:
        raise ValueError(f"the loss ({class_of(loss)}) has hooks or a forward of its own, which would not be called")
    return name, loss.reduction


def values_of(what: str, tensor: Tensor) -> NDArray[numpy.float32]:
    """The memory of a float32 tensor on the CPU, as numpy's array."""
    if isinstance(tensor, Tensor):
        if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided:
            return tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()
        found = f"{tensor.dtype} on {tensor.device}"
    else:
        found = f"of class {class_of(tensor)}"
    raise TypeError(f"{what} is {found}, expected a tensor of torch.float32 on cpu")


def input_of(X: Tensor) -> NDArray[numpy.float32]:
    x = values_of("X", X)
    if x.ndim < 2:
        raise ValueError(f"X has shape {tuple(x.shape)}, expected [batch, ...]")
    return x


def targets_of(Y: Tensor) -> NDArray[Any]:
    if isinstance(Y, Tensor) and Y.dtype is torch.int64 and Y.is_cpu:
        return Y.numpy()
    try:
        return values_of("Y", Y)
    except TypeError as error:
        raise TypeError(f"{error} for values, or of torch.int64 for class labels") from None
