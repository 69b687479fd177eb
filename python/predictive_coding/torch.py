"""PyTorch's modules and tensors: Torch2PC's interface, and networks of modules.

Torch2PC is the software of Rosenbaum's "On the relationship between predictive coding and backpropagation" (PLoS ONE
17(3), e0266102, 2022). Its programs run with one line changed:

    from predictive_coding.torch import PCInfer

Nothing here imports PyTorch before it is given a module of it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import warnings
from collections import OrderedDict

from ._native import DivergenceError, Network, Session
from .methods import Exact, FixedPrediction, Strict

__all__ = ["PCInfer", "clear_sessions", "infer", "network", "tensors"]

SESSIONS_KEPT = 8
"""Sessions that wait for another call, at most."""

_sessions: OrderedDict = OrderedDict()


def PCInfer(model, LossFun, X, Y, ErrType, eta=0.1, n=20, vinit=None):
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
    torch = _torch().module
    if ErrType not in ("Strict", "FixedPred", "Exact"):
        raise ValueError(f'ErrType is {ErrType!r}, expected "FixedPred", "Strict" or "Exact"')
    read = _Model(model)
    loss = _loss(LossFun)
    x = _input(X)
    y = _targets(Y)
    iterations = len(model) if n is None else n
    # Torch2PC's fixed prediction has an error at the input too: that of a layer which passes it on.
    first = ErrType == "FixedPred"
    method = {"Strict": Strict, "FixedPred": FixedPrediction}[ErrType](eta, iterations) if ErrType != "Exact" else Exact()
    with _kept_session(read, loss, x.shape, method, passes_on=first) as session:
        return _step(torch, session, read, ErrType, X, x, y, vinit)


def infer(model, LossFun, X, Y, method=Strict()):
    """As `PCInfer`, by any method, for training: sets `p.grad` and returns the loss alone.

    Activations, beliefs and errors are not copied. `method` is one of those of `Session.infer`; where it says that a
    divergence is to stop, `DivergenceError` is raised and no gradient is set.
    """
    read, loss, x, y = _Model(model), _loss(LossFun), _input(X), _targets(Y)
    with _kept_session(read, loss, x.shape, method) as session:
        value = session.infer(read.tensors(), x, y)
        _set_gradients(read, session)
    return _torch().module.scalar_tensor(value)


@contextlib.contextmanager
def _kept_session(read, loss, shape, method, passes_on=False):
    """A session that nobody else uses meanwhile, and that is kept for the next call."""
    threads = _torch().module.get_num_threads()
    key = (read.layers, loss, shape, method, threads, passes_on)
    session = _sessions.pop(key, None)
    drops = any(operation[0] == "dropout" for layer in read.layers for operation in layer)
    if session is None:
        network, seed = read.network(loss, shape[1:], passes_on), 0 if drops else None
        session = Session(network, shape[0], method, dropout_seed=seed, threads=threads)
    if drops:
        # Masks follow torch.manual_seed, as those of PyTorch do.
        session.set_dropout_step(int(_torch().module.randint(2**63 - 1, ())))
    try:
        yield session
    finally:
        _sessions[key] = session
        while len(_sessions) > SESSIONS_KEPT:
            _sessions.popitem(last=False)


def _set_gradients(read, session):
    from_numpy = _torch().module.from_numpy
    for parameter, gradient in zip(read.parameters, session.gradients.values()):
        if parameter.requires_grad:
            parameter.grad = from_numpy(gradient.copy())


def _step(torch, session, read, ErrType, X, x, y, vinit):
    starts = {}
    if vinit is not None:
        if ErrType != "Strict":
            raise ValueError(f'vinit is given, but "{ErrType}" starts at vhat; leave it out')
        if len(vinit) != len(read.layers) + 1:
            raise ValueError(f"vinit has {len(vinit)} entries, expected {len(read.layers) + 1}: one more than layers")
        starts["start"] = [None if v is None else _values("vinit", v) for v in vinit[1:-1]]
    try:
        loss = session.infer(read.tensors(), x, y, **starts)
    except DivergenceError as divergence:
        warnings.warn(str(divergence), RuntimeWarning, stacklevel=4)
        loss = session.loss
    _set_gradients(read, session)
    depth = len(read.layers)
    offset = len(session.network) - depth
    get = lambda quantity, layer: torch.from_numpy(session.get(quantity, layer + offset))  # noqa: E731
    vhat = [X, *(get("activation", layer) for layer in range(1, depth + 1))]
    epsilon = [get("error", 0) if offset else None, *(get("error", layer) for layer in range(1, depth + 1))]
    v = [None, *(get("belief", layer) for layer in range(1, depth)), None]
    if ErrType == "Exact":
        v[depth] = vhat[depth] - epsilon[depth]
        dLdy = epsilon[depth].clone()
    elif ErrType == "FixedPred":
        v[0], v[depth] = get("belief", 0), vhat[depth].clone()
        dLdy = epsilon[depth]
    else:
        v[0], v[depth] = X.detach().clone(), vhat[depth].clone()
        dLdy = torch.from_numpy(session.loss_gradient())
    return vhat, torch.scalar_tensor(loss), dLdy, v, epsilon


def clear_sessions():
    """Gives the memory of the sessions back that wait for another call of `PCInfer`; they are planned anew."""
    _sessions.clear()


def network(model, loss, input_shape):
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
    return _Model(model).network(_loss(loss), input_shape)


def tensors(model):
    """The parameters of a model as numpy arrays over the same memory, in the order of its network's.

    What `Session.infer` takes for parameters.
    """
    return _Model(model).tensors()


class _Model:
    """What a module is made of, as it is now."""

    def __init__(self, model):
        torch = _torch()
        if type(model) is not torch.nn.Sequential:
            raise TypeError(f"the model is of class {_class(model)}, expected torch.nn.Sequential")
        torch.refuse_global_hooks()
        _refuse_hooks(model, "the model")
        self.parameters = []
        self.owners = []
        running = []
        self.places = []
        layers = []
        for index, module in enumerate(model):
            self.places.append([])
            layers.append(tuple(self._operations(torch, module, str(index), running)))
        self.layers = tuple(layers)
        # What is not trained comes behind all that is.
        self.owners += running
        self.parameters += [module._buffers[name] for _, module, name in running]
        if len(set(map(id, self.parameters))) < len(self.parameters):
            raise ValueError("the model has the same parameter in two places, expected each to be used once")

    def _operations(self, torch, module, place, running):
        """The operations of a layer; each is a tuple of its name, and names and values of its arguments.

        The owners of running statistics are added to `running`.
        """
        _refuse_hooks(module, place)
        if type(module) is torch.nn.Sequential:
            operations = []
            for index, inner in enumerate(module):
                operations += self._operations(torch, inner, f"{place}.{index}", running)
            return operations
        read = None if _hint(torch, module) else torch.readers.get(type(module))
        if read is None:
            raise TypeError(
                f"module {place} is of class {_class(module)}{_hint(torch, module)}, expected Sequential, "
                f"{', '.join(known.__name__ for known in torch.readers)}"
            )
        self.places[-1].append((place, module))
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self.parameters.append(parameter)
                self.owners.append((place, module, name))
        if type(module) is torch.nn.BatchNorm2d:
            running += [(place, module, name) for name in ("running_mean", "running_var")]
        return [read(_Refusal(place, module), module)]

    def network(self, loss, input_shape, passes_on=False):
        """The network; `passes_on`: whether a layer that does nothing comes first."""
        name, reduction = loss
        layers = [(("identity",),)] * passes_on + list(self.layers)
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
        for (place, module, name), parameter, shape in zip(self.owners, self.parameters, made.parameters.values()):
            if tuple(parameter.shape) != shape:
                raise ValueError(
                    f"module {place} ({_class(module)}): {name} has shape {tuple(parameter.shape)}, but its input asks for "
                    f"{shape}"
                )
        for layer, operations in enumerate(self.layers):
            for index, (place, module) in enumerate(self.places[layer]):
                # Weights would have told.
                if operations[index] and isinstance(module, (_torch().nn.LayerNorm, _torch().nn.RMSNorm)):
                    self._check_whole(text, layer + passes_on, index, place, module)
        return made

    def _check_whole(self, text, layer, index, place, module):
        """Refuses a normalisation of a part of a sample."""
        starts = [number for number, line in enumerate(text) if line == "[[layer]]"]
        before = text[: starts[layer] + 2 + index] + ["]"]
        whole = Network.from_toml("\n".join(before).replace('"cross_entropy"', '"mse"') + "\n").output_shape
        if tuple(module.normalized_shape) != whole:
            raise ValueError(
                f"module {place} ({_class(module)}): normalized_shape is {tuple(module.normalized_shape)}, expected that of "
                f"a whole sample, {whole}"
            )

    def _in_words_of_modules(self, error, passes_on):
        """The error with a module's place and class instead of an operation's numbers."""
        found = re.match(r"(?:line \d+, )?operation (\d+)\.(\d+): (.*)", str(error), re.DOTALL)
        if not found:
            return error
        layer, operation, message = found.groups()
        place, module = self.places[int(layer) - passes_on][int(operation)]
        return ValueError(f"module {place} ({_class(module)}): {message}")

    def tensors(self):
        """The parameters' memory, as numpy's arrays."""
        return [_parameter(owner, parameter) for owner, parameter in zip(self.owners, self.parameters)]


class _Refusal:
    """Refuses what the library has not got of a module."""

    def __init__(self, place, module):
        self.place, self.module = place, module

    def unless(self, holds, found, expected):
        if not holds:
            raise ValueError(f"module {self.place} ({_class(self.module)}): {found}, expected {expected}")


class _Torch:
    """PyTorch, and how to read its modules."""

    def __init__(self):
        import torch

        self.module, self.nn = torch, torch.nn
        self.float32, self.int64 = torch.float32, torch.int64
        nn = torch.nn
        self.readers = {
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
            nn.Dropout: lambda refusal, module: ("dropout", ("p", float(module.p))) if module.training else ("identity",),
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
            nn.Softplus: lambda refusal, module: (
                "softplus",
                ("beta", float(module.beta)),
                ("threshold", float(module.threshold)),
            ),
            nn.Identity: lambda refusal, module: ("identity",),
        }
        hooks = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
        self._hooks = [getattr(nn.modules.module, f"_global_{name}", {}) for name in hooks]

    def refuse_global_hooks(self):
        if any(self._hooks):
            raise ValueError("there are hooks on all modules, which would not be called; remove them")


@functools.lru_cache(maxsize=None)
def _torch():
    return _Torch()


def _class(value):
    return type(value).__name__


def _hint(torch, module):
    batch_norm = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    return " in training mode" if batch_norm and module.training else ""


def _refuse_hooks(module, place):
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        where = place if place == "the model" else f"module {place}"
        raise ValueError(f"{where} ({_class(module)}) has hooks, which would not be called; remove them")
    if "forward" in module.__dict__:
        raise ValueError(f"module {place} ({_class(module)}) has a forward of its own, which would not be called")


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def _conv2d(refusal, module):
    refusal.unless(module.padding_mode == "zeros", f"padding_mode is {module.padding_mode!r}", "'zeros'")
    return (
        "conv2d",
        ("out_channels", module.out_channels),
        ("kernel_size", module.kernel_size),
        ("stride", module.stride),
        ("padding", module.padding),
        ("dilation", module.dilation),
        ("groups", module.groups),
        ("bias", module._parameters["bias"] is not None),
    )


def _conv_transpose2d(refusal, module):
    name, *arguments = _conv2d(refusal, module)
    return "conv_transpose2d", ("output_padding", module.output_padding), *arguments


def _linear(refusal, module):
    return "linear", ("out_features", module.out_features), ("bias", module._parameters["bias"] is not None)


def _max_pool2d(refusal, module):
    refusal.unless(not module.return_indices, "return_indices is True", "False")
    return (
        "max_pool2d",
        ("kernel_size", _pair(module.kernel_size)),
        ("stride", _pair(module.stride)),
        ("padding", _pair(module.padding)),
        ("dilation", _pair(module.dilation)),
        ("ceil_mode", bool(module.ceil_mode)),
    )


def _avg_pool2d(refusal, module):
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


def _adaptive_avg_pool2d(refusal, module):
    size = _pair(module.output_size)
    refusal.unless(0 not in size, f"output_size is {module.output_size}", "numbers above 0, or None to keep a size")
    return "adaptive_avg_pool2d", ("output_size", tuple(side or 0 for side in size))


def _flatten(refusal, module):
    whole = (module.start_dim, module.end_dim) == (1, -1)
    refusal.unless(whole, f"it flattens axes {module.start_dim} to {module.end_dim}", "1 to -1")
    return ("flatten",)


def _unflatten(refusal, module):
    size = module.unflattened_size
    image = len(size) == 3 and all(isinstance(side, int) and side > 0 for side in size)
    refusal.unless(module.dim == 1 and image, f"it unflattens axis {module.dim} to {tuple(size)}", "1 to three sizes")
    return "unflatten", ("size", tuple(size))


def _layer_norm(refusal, module):
    affine = module.elementwise_affine
    refusal.unless(not affine or module._parameters["bias"] is not None, "bias is False", "True, or no elementwise_affine")
    return "layer_norm", ("eps", float(module.eps)), ("affine", affine)


def _rms_norm(refusal, module):
    eps = _torch().module.finfo(_torch().float32).eps if module.eps is None else module.eps
    return "rms_norm", ("eps", float(eps)), ("affine", module.elementwise_affine)


def _group_norm(refusal, module):
    arguments = ("num_groups", module.num_groups), ("eps", float(module.eps)), ("affine", module.affine)
    return "group_norm", *arguments


def _batch_norm2d(refusal, module):
    refusal.unless(module._buffers["running_mean"] is not None, "track_running_stats is False", "True")
    return "batch_norm2d", ("eps", float(module.eps)), ("affine", module.affine)


def _hardtanh(refusal, module):
    return "hardtanh", ("min_val", float(module.min_val)), ("max_val", float(module.max_val))


def _loss(loss):
    """Name and reduction of a loss."""
    nn = _torch().nn
    taken = "torch.nn.CrossEntropyLoss or torch.nn.MSELoss"
    if type(loss) is nn.MSELoss:
        name = "mse"
    elif type(loss) is nn.CrossEntropyLoss:
        name = "cross_entropy"
        if loss.weight is not None or loss.label_smoothing != 0.0 or loss.ignore_index != -100:
            raise ValueError(f"the loss has a weight, label_smoothing or ignore_index, expected {taken} without them")
    else:
        raise TypeError(f"the loss is of class {_class(loss)}, expected {taken}")
    if loss.reduction not in ("mean", "sum"):
        raise ValueError(f"the loss has the reduction {loss.reduction!r}, expected 'mean' or 'sum'")
    _refuse_hooks(loss, "of the loss")
    return name, loss.reduction


def _parameter(owner, parameter):
    """The memory of a parameter, as numpy's array."""
    if parameter._backward_hooks:
        place, module, name = owner
        raise ValueError(f"module {place} ({_class(module)}): {name} has hooks, which would not be called")
    if parameter.dtype is _torch().float32 and parameter.is_cpu and parameter.is_contiguous():
        return parameter.detach().numpy()
    place, module, name = owner
    return _values(f"module {place} ({_class(module)}): {name}", parameter)


def _values(what, tensor):
    """The memory of a float32 tensor on the CPU, as numpy's array; a copy if it is not contiguous."""
    torch = _torch()
    if isinstance(tensor, torch.module.Tensor):
        if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.module.strided:
            return tensor.detach().contiguous().numpy()
        found = f"{tensor.dtype} on {tensor.device}"
    else:
        found = f"of class {_class(tensor)}"
    raise TypeError(f"{what} is {found}, expected a tensor of torch.float32 on cpu")


def _input(X):
    x = _values("X", X)
    if x.ndim < 2:
        raise ValueError(f"X has shape {tuple(x.shape)}, expected [batch, ...]")
    return x


def _targets(Y):
    torch = _torch()
    if isinstance(Y, torch.module.Tensor) and Y.dtype is torch.int64 and Y.is_cpu:
        return Y.detach().contiguous().numpy()
    try:
        return _values("Y", Y)
    except TypeError as error:
        raise TypeError(f"{error} for values, or of torch.int64 for class labels") from None
