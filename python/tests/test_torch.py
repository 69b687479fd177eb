"""PyTorch's modules and tensors, where PyTorch is installed."""

import gc
import subprocess
import sys
import threading
import warnings

import numpy
import pytest
from conftest import relative_error

import predictive_coding as pc

torch = pytest.importorskip("torch", reason="PyTorch is not installed; its tests are skipped")
nn = torch.nn

from torch.autograd import grad  # noqa: E402
from torch.autograd.functional import vjp  # noqa: E402

from predictive_coding import _calls, _modules  # noqa: E402
from predictive_coding.torch import PCInfer, clear_sessions, infer, set_num_threads, tensors  # noqa: E402


def torch2pc(model, loss_fun, X, Y, ErrType, eta=0.1, n=20, vinit=None):
    """Torch2PC's sequence of operations, and its gradients as a list; it starts at vinit, where Torch2PC ignores it."""
    depth = len(model)
    vhat = [X]
    for layer in model:
        vhat.append(layer(vhat[-1]))
    loss = loss_fun(vhat[-1], Y)
    dLdy = grad(loss, vhat[-1], retain_graph=True)[0]
    epsilon = [None] * (depth + 1)
    if ErrType == "Exact":
        v = [None] * (depth + 1)
        for l in range(1, depth + 1):
            epsilon[l] = grad(loss, vhat[l], retain_graph=True)[0]
            v[l] = vhat[l] - epsilon[l]
        at = vhat
    elif ErrType == "FixedPred":
        vhat = [value.detach() for value in vhat]
        v = [value.clone() for value in vhat]
        epsilon[depth] = dLdy
        for _ in range(n):
            for l in reversed(range(depth)):
                epsilon[l] = vhat[l] - v[l]
                v[l] = v[l] + eta * (epsilon[l] - vjp(model[l], vhat[l], epsilon[l + 1])[1])
        at = vhat
    else:
        start = vhat if vinit is None else vinit
        v = [vhat[0].clone(), *(value.detach().clone() for value in start[1:-1]), vhat[-1].detach().clone()]
        for _ in range(n):
            prediction = model[depth - 1](v[depth - 1])
            epsilon[depth] = grad(loss_fun(prediction, Y), prediction)[0]
            for l in reversed(range(1, depth)):
                epsilon[l] = (model[l - 1](v[l - 1]) - v[l]).detach()
                v[l] = v[l] + eta * (epsilon[l] - vjp(model[l], v[l], epsilon[l + 1])[1])
        at = v
    gradients = []
    for l, layer in enumerate(model):
        output = layer(at[l].detach().clone().requires_grad_())
        gradients += [grad(output, p, epsilon[l + 1], retain_graph=True)[0] for p in layer.parameters()]
    return vhat, loss, dLdy, v, epsilon, gradients


ACTIVATIONS = [
    nn.ReLU,
    lambda: nn.LeakyReLU(0.2),
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.SiLU,
    nn.Softplus,
    lambda: nn.Softplus(2.5, 30),
    nn.ELU,
    lambda: nn.ELU(0.4),
    nn.SELU,
    nn.Hardtanh,
    lambda: nn.Hardtanh(-0.3, 1.7),
    nn.ReLU6,
    nn.Identity,
    lambda: nn.ReLU(inplace=True),
]
# An operation in place changes what Torch2PC keeps, unless it is behind a product.
IN_PLACE = ACTIVATIONS[-1]


def random_model(rng):
    """Modules and nested ones in any order, the shape of an input, and the number of outputs."""
    spatial = rng.random() < 0.6
    shape = (int(rng.integers(1, 4)), int(rng.integers(7, 11)), int(rng.integers(7, 11))) if spatial else (7,)
    size, layers, flat = list(shape), [], not spatial

    def image():
        nonlocal size
        channels, height, width = size
        kind = rng.integers(6)
        if kind == 0:
            groups = channels if rng.random() < 0.5 else 1
            module = nn.ConvTranspose2d(channels, 2 * groups, 3, 2, 1, 1, groups)
        elif kind < 3:
            kernel, padding = int(rng.integers(1, 4)), int(rng.integers(0, 2))
            stride = int(rng.integers(1, 3))
            groups = channels if rng.random() < 0.3 else 1
            outputs, bias = groups * int(rng.integers(1, 4)), bool(rng.random() < 0.8)
            module = nn.Conv2d(channels, outputs, kernel, stride, padding, groups=groups, bias=bias)
        elif kind == 3:
            module = nn.MaxPool2d(2, int(rng.integers(1, 4)), ceil_mode=bool(rng.random() < 0.5))
        elif kind == 4:
            divisor = 3 if rng.random() < 0.3 else None
            flags = [bool(rng.random() < 0.5) for _ in range(2)]
            module = nn.AvgPool2d((2, 3), int(rng.integers(1, 4)), 1, *flags, divisor_override=divisor)
        else:
            module = nn.AdaptiveAvgPool2d((min(height, 3), 2) if rng.random() < 0.5 else (None, 2))
        if min(height, width) < 4:
            module = nn.Conv2d(channels, 3, (int(rng.integers(1, 5)), 2), padding="same", dilation=(1, 2))
        with torch.no_grad():
            size = list(module(torch.zeros(1, *size)).shape[1:])
        return module

    def norm():
        channels = size[0]
        kind = rng.integers(5 if len(size) == 3 else 4)
        affine = bool(rng.random() < 0.7)
        if kind == 0:
            return nn.LayerNorm(size, eps=1e-2, elementwise_affine=affine)
        if kind == 1:
            return nn.RMSNorm(size, eps=None if affine else 1e-2, elementwise_affine=affine)
        if kind == 2:
            # Of a group of one element nothing is left, and of two next to nothing.
            elements = int(numpy.prod(size))
            groups = [n for n in range(1, channels + 1) if channels % n == 0 and elements // n > 2]
            return nn.GroupNorm(int(rng.choice(groups or [1])), channels, 1e-2, affine)
        if kind == 3:
            return nn.Dropout(0.3)
        module = nn.BatchNorm2d(channels, affine=affine)
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
        return module

    for _ in range(int(rng.integers(2, 6))):
        ops = []
        for _ in range(int(rng.integers(1, 4))):
            kind = rng.random()
            if kind < 0.12:
                # Behind a product, a normalisation may take away all that a bias does, and rounding is left of its gradient.
                ops += [nn.SiLU(), norm()]
            elif kind < 0.45:
                activation = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
                behind_product = ops and isinstance(ops[-1], (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
                ops.append(nn.ReLU() if activation is IN_PLACE and not behind_product else activation())
            elif not flat and kind < 0.9:
                ops.append(image())
            elif not flat:
                ops.append(nn.Flatten())
                size, flat = [int(numpy.prod(size))], True
            elif kind > 0.95 and size[0] % 4 == 0:
                size, flat = [size[0] // 4, 2, 2], False
                ops.append(nn.Unflatten(1, tuple(size)))
            else:
                features = int(rng.integers(2, 12))
                ops.append(nn.Linear(size[0], features, bias=bool(rng.random() < 0.8)))
                size = [features]
        nested = nn.Sequential(*ops)
        layers.append(ops[0] if len(ops) == 1 else nn.Sequential(nested) if rng.random() < 0.2 else nested)
    if not flat:
        layers.append(nn.Flatten())
        size = [int(numpy.prod(size))]
    layers.append(nn.Linear(size[0], 4))
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Those of normalisations are 1 and 0 at first.
            parameter += 0.1 * torch.randn_like(parameter)
    return model, shape


def twin(model):
    """The same model in float64."""
    import copy

    return copy.deepcopy(model).double()


def compare(got, want, moved):
    """Within 1e-5, or what a rounding of X and the parameters moves the result in float64 by, times 10."""
    assert len(got) == len(want)
    for ours, theirs, other in zip(got, want, moved):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype is torch.float32 and not ours.requires_grad
            theirs, other = theirs.detach().numpy(), other.detach().numpy()
            assert relative_error(ours.numpy(), theirs) < max(1e-5, 10 * relative_error(other, theirs))


def rounded(values):
    """Values as far from these as float32 rounds."""
    return values * (1 + torch.empty_like(values).uniform_(-6e-8, 6e-8))


@pytest.mark.parametrize("seed", range(30))
def test_a_random_model_gives_what_torch2pc_gives_in_float64(seed):
    rng = numpy.random.default_rng(seed)
    torch.manual_seed(seed)
    model, shape = random_model(rng)
    samples = int(rng.integers(1, 20))
    X = torch.randn(samples, *shape)
    reduction = ["mean", "sum"][seed % 2]
    if seed % 3 == 0:
        loss_fun, Y = nn.MSELoss(reduction=reduction), torch.randn(samples, 4)
    else:
        loss_fun, Y = nn.CrossEntropyLoss(reduction=reduction), torch.randint(0, 4, (samples,))
    Y64 = Y.double() if Y.is_floating_point() else Y
    for ErrType in ("Strict", "FixedPred", "Exact"):
        n, eta = int(rng.integers(1, 15)), float(rng.uniform(0.05, 0.2))
        vinit = None
        if ErrType == "Strict" and rng.random() < 0.5:
            with torch.no_grad():
                vinit = [X]
                for layer in model:
                    # A start that no activation in place writes to.
                    vinit.append(layer(vinit[-1].clone()) + 0.01 * torch.randn(1))
        ours = PCInfer(model, loss_fun, X, Y, ErrType, eta, n, vinit)
        double, other = twin(model), twin(model)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.copy_(rounded(parameter))
        rest = (Y64, ErrType, eta, n, vinit and [value.double() for value in vinit])
        x = X.double().requires_grad_()
        theirs = torch2pc(double, loss_fun, x.clone(), *rest)
        moved = torch2pc(other, loss_fun, rounded(x), *rest)
        vhat, loss, dLdy, v, epsilon = ours
        assert vhat[0] is X and loss.shape == () and loss.dtype is torch.float32
        compare(vhat, theirs[0], moved[0])
        compare([loss, dLdy], theirs[1:3], moved[1:3])
        compare(v, theirs[3], moved[3])
        compare(epsilon, theirs[4], moved[4])
        compare([p.grad for p in model.parameters()], theirs[5], moved[5])


def randomised(module):
    """The module with parameters and statistics of its own, in eval mode."""
    with torch.no_grad():
        for values in [*module.parameters(), *module.buffers()]:
            values += torch.rand_like(values) / 2 if values.is_floating_point() else 0
    return module.eval()


VECTOR, IMAGE = (12,), (4, 6, 7)
MODULES = [
    (VECTOR, lambda: nn.Linear(12, 5)),
    (VECTOR, lambda: nn.Linear(12, 5, bias=False)),
    (VECTOR, lambda: nn.Unflatten(1, (3, 2, 2))),
    (VECTOR, lambda: nn.LayerNorm(12)),
    (VECTOR, lambda: nn.GroupNorm(3, 12)),
    (VECTOR, lambda: nn.RMSNorm(12, eps=1e-3)),
    (IMAGE, lambda: nn.Conv2d(4, 6, 3)),
    (IMAGE, lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), bias=False)),
    (IMAGE, lambda: nn.Conv2d(4, 6, 3, groups=2)),
    (IMAGE, lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=4)),
    (IMAGE, lambda: nn.Conv2d(4, 3, (4, 3), padding="same")),
    (IMAGE, lambda: nn.Conv2d(4, 3, 2, padding="valid")),
    (IMAGE, lambda: nn.ConvTranspose2d(4, 3, 3)),
    (IMAGE, lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, bias=False, dilation=2)),
    (IMAGE, lambda: nn.MaxPool2d(2)),
    (IMAGE, lambda: nn.MaxPool2d((2, 3), (1, 2), 1, dilation=(2, 1), ceil_mode=True)),
    (IMAGE, lambda: nn.AvgPool2d((2, 3), 2, 1)),
    (IMAGE, lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)),
    (IMAGE, lambda: nn.AvgPool2d(2, ceil_mode=True, divisor_override=3)),
    (IMAGE, lambda: nn.AdaptiveAvgPool2d(4)),
    (IMAGE, lambda: nn.AdaptiveAvgPool2d((None, 3))),
    (IMAGE, lambda: nn.LayerNorm([4, 6, 7], eps=1e-3)),
    (IMAGE, lambda: nn.LayerNorm([4, 6, 7], elementwise_affine=False)),
    (IMAGE, lambda: nn.GroupNorm(2, 4)),
    (IMAGE, lambda: nn.GroupNorm(4, 4, 1e-3, affine=False)),
    (IMAGE, lambda: nn.RMSNorm([4, 6, 7])),
    (IMAGE, lambda: nn.RMSNorm([4, 6, 7], elementwise_affine=False)),
    (IMAGE, lambda: nn.BatchNorm2d(4)),
    (IMAGE, lambda: nn.BatchNorm2d(4, 1e-3, affine=False)),
    (IMAGE, lambda: nn.Dropout(0.7)),
    (IMAGE, lambda: nn.Flatten()),
    *((VECTOR, activation) for activation in ACTIVATIONS if activation is not IN_PLACE),
]


@pytest.mark.parametrize(("shape", "make"), MODULES, ids=lambda made: repr(made()) if callable(made) else f"{len(made)}d")
def test_each_module_gives_what_autograd_gives_in_float64(shape, make):
    torch.manual_seed(4)
    # With a layer before the module, its error there is the gradient by the module's input.
    layers = [nn.Identity(), randomised(make()), nn.Flatten()]
    X, loss_fun = 2 * torch.randn(5, *shape), nn.MSELoss(reduction="sum")
    features = layers[2](layers[1](X)).shape[1]
    model = nn.Sequential(*layers, nn.Linear(features, 3))
    Y = torch.randn(5, 3)
    vhat, loss, _, _, epsilon = PCInfer(model, loss_fun, X, Y, "Exact")
    double = twin(model)
    activations = [X.double().requires_grad_()]
    for module in double:
        activations.append(module(activations[-1]))
    want = loss_fun(activations[-1], Y.double())
    errors = grad(want, activations[1:], retain_graph=True)
    assert relative_error(loss.item(), want.item()) < 1e-5
    for got, wanted in zip([*vhat[1:], *epsilon[1:]], [*activations[1:], *errors]):
        assert relative_error(got.numpy(), wanted.detach().numpy()) < 1e-5
    for parameter, wanted in zip(model.parameters(), grad(want, list(double.parameters()))):
        assert relative_error(parameter.grad.numpy(), wanted.numpy()) < 1e-5
    # The network of the modules, by itself.
    network = pc.Network.from_torch(model, loss_fun, shape)
    outputs = pc.Session(network, 5).predict(tensors(model), X.numpy())
    assert relative_error(outputs, activations[-1].detach().numpy()) < 1e-5


class Masked(nn.Module):
    """Dropout by a given mask."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x):
        return x * self.mask


@pytest.mark.parametrize("ErrType", ["Strict", "FixedPred", "Exact"])
def test_masks_of_dropout_stay_through_a_call(ErrType):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 20), nn.Tanh()), nn.Dropout(0.4), nn.Linear(20, 3))
    X, Y, loss_fun = torch.randn(4, 6), torch.randint(0, 3, (4,)), nn.CrossEntropyLoss()
    vhat, _, _, v, epsilon = PCInfer(model, loss_fun, X, Y, ErrType, 0.1, 9)
    gradients = [parameter.grad for parameter in model.parameters()]
    mask = torch.where(vhat[2] == 0, 0.0, 1 / 0.6).double()
    assert 0.2 < (mask == 0).double().mean() < 0.6
    double = twin(model)
    double[1] = Masked(mask)
    *_, beliefs, errors, wanted = torch2pc(double, loss_fun, X.double().requires_grad_(), Y, ErrType, 0.1, 9)
    for got, want in zip([*v, *epsilon, *gradients], [*beliefs, *errors, *wanted]):
        assert (got is None) == (want is None)
        if got is not None:
            assert relative_error(got.numpy(), want.detach().numpy()) < 1e-5


def mnist_model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 10, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(10, 5, 3), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(5 * 11 * 11, 50), nn.ReLU()),
        nn.Sequential(nn.Linear(50, 30), nn.ReLU()),
        nn.Sequential(nn.Linear(30, 10)),
    )


@pytest.fixture
def problem():
    model = mnist_model()
    return model, nn.CrossEntropyLoss(), torch.rand(6, 1, 28, 28), torch.randint(0, 10, (6,))


def test_a_model_that_changes_between_calls_is_noticed(problem):
    model, loss_fun, X, Y = problem

    def agrees():
        vhat, *_ = PCInfer(model, loss_fun, X, Y, "Exact")
        got = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        loss_fun(model(X), Y).backward()
        assert relative_error(vhat[-1].numpy(), model(X).detach().numpy()) < 1e-5
        return all(relative_error(g.numpy(), p.grad.numpy()) < 1e-4 for g, p in zip(got, model.parameters()))

    assert agrees()
    with torch.no_grad():
        model[0][0].weight.mul_(1.5)
    assert agrees()
    model[2][0].weight = nn.Parameter(torch.randn(50, 605) / 25)
    assert agrees()
    model[2][0].bias = None
    assert agrees()
    model[3][1] = nn.Tanh()
    assert agrees()
    model[0][2].kernel_size = 3
    with pytest.raises(ValueError, match="module 2.0 .Linear.: weight has shape"):
        PCInfer(model, loss_fun, X, Y, "Exact")
    model[0][2].kernel_size = 2
    model.insert(3, nn.Sigmoid())
    assert agrees()
    # Other data in the same parameters: elsewhere, in another order, and in another shape.
    model[2][0].weight.data = torch.randn(50, 605) / 25
    assert agrees()
    model.insert(5, nn.Linear(30, 30))
    assert agrees()
    model[5].weight.data = model[5].weight.data.t()
    assert agrees()
    model[5].weight.data = model[5].weight.data.t().flatten()[:870].view(30, 29)
    with pytest.raises(ValueError, match=r"5.0.weight has shape \[30, 29\], expected \[30, 30\]"):
        PCInfer(model, loss_fun, X, Y, "Exact")
    model[5] = nn.Softplus(2)
    assert agrees()
    model[5].beta = 3
    assert agrees()
    # A list that is changed in place, and modules that change places.
    model[0][2] = nn.MaxPool2d([2, 2])
    assert agrees()
    model[0][2].kernel_size[0] = 7
    with pytest.raises(ValueError, match="module 2.0 .Linear.: weight has shape"):
        PCInfer(model, loss_fun, X, Y, "Exact")
    model[0][2].kernel_size[0] = 2
    model[3], model[5] = model[5], model[3]
    assert agrees()
    for hooked, message in [(model[1][0], "module 1.0 .Conv2d. has hooks"), (model[1], "module 1 .Sequential. has hooks")]:
        handle = hooked.register_forward_hook(lambda *_: None)
        with pytest.raises(ValueError, match=message):
            PCInfer(model, loss_fun, X, Y, "Exact")
        handle.remove()
        assert agrees()
    handle = model[1][0].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(ValueError, match="module 1.0 .Conv2d.: weight has hooks"):
        PCInfer(model, loss_fun, X, Y, "Exact")
    handle.remove()
    model[1][1].__class__ = nn.Tanh
    assert agrees()
    model[1][1].forward = lambda x: x
    with pytest.raises(ValueError, match="module 1.1 .Tanh. has a forward of its own"):
        PCInfer(model, loss_fun, X, Y, "Exact")


def test_gradients_are_new_tensors_and_frozen_parameters_are_left_alone(problem):
    model, *rest = problem
    PCInfer(model, *rest, "Strict")
    first = model[0][0].weight.grad
    kept = first.clone()
    model[2][0].bias.requires_grad_(False)
    model[2][0].bias.grad = None
    with torch.no_grad():
        model[4][0].weight.mul_(2)
    PCInfer(model, *rest, "Strict")
    assert torch.equal(first, kept)
    assert model[0][0].weight.grad is not first and not torch.equal(model[0][0].weight.grad, first)
    assert model[2][0].bias.grad is None
    torch.optim.Adam(model.parameters()).step()


def test_parameters_are_read_where_they_lie(problem):
    model, *_ = problem
    arrays = tensors(model)
    for array, parameter in zip(arrays, model.parameters()):
        assert array.ctypes.data == parameter.data_ptr()


def test_n_and_types_of_errors(problem):
    model, loss_fun, X, Y = problem
    _, _, _, _, epsilon = PCInfer(model, loss_fun, X, Y, "FixedPred", 1.0, None)
    _, _, _, _, exact = PCInfer(model, loss_fun, X, Y, "Exact")
    assert relative_error(epsilon[1].numpy(), exact[1].numpy()) < 1e-5
    with pytest.raises(ValueError, match="ErrType is 'Modified'"):
        PCInfer(model, loss_fun, X, Y, "Modified")
    with pytest.raises(ValueError, match="vinit is given, but \"Exact\" starts at vhat"):
        PCInfer(model, loss_fun, X, Y, "Exact", vinit=[X] * 6)
    with pytest.raises(ValueError, match="vinit has 2 entries, expected 6"):
        PCInfer(model, loss_fun, X, Y, "Strict", vinit=[X] * 2)
    with pytest.raises(ValueError, match="iterations is 0"):
        PCInfer(model, loss_fun, X, Y, "Strict", n=0)


def normalising_model():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.GroupNorm(4, 8), nn.SiLU()),
        nn.Sequential(nn.BatchNorm2d(8, eps=1e-3), nn.Conv2d(8, 4, 3), nn.LayerNorm([4, 4, 4]), nn.Tanh()),
        nn.Sequential(nn.ConvTranspose2d(4, 3, 2, 2, output_padding=1), nn.RMSNorm([3, 9, 9]), nn.Flatten()),
        nn.Sequential(nn.Linear(243, 9), nn.LayerNorm(9, elementwise_affine=False), nn.Dropout()),
        nn.Linear(9, 5),
    )


@pytest.mark.parametrize("ErrType", ["Strict", "FixedPred", "Exact"])
def test_normalisations_are_pytorchs(ErrType):
    torch.manual_seed(3)
    model = normalising_model().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    norm = model[1][0]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    X, Y, loss = torch.randn(3, 2, 8, 8), torch.randn(3, 5), nn.MSELoss()
    double = normalising_model().double().eval()
    double.load_state_dict(model.state_dict())
    *_, epsilon, gradients = torch2pc(double, loss, X.double(), Y.double(), ErrType)
    running = [norm.running_mean.clone(), norm.running_var.clone()]
    found = PCInfer(model, loss, X, Y, ErrType)
    for got, want in zip(found[-1][1:], epsilon[1:]):
        assert relative_error(got.numpy(), want.numpy()) < 1e-5
    for parameter, want in zip(model.parameters(), gradients):
        assert relative_error(parameter.grad.numpy(), want.numpy()) < 1e-5
    assert torch.equal(norm.running_mean, running[0]) and torch.equal(norm.running_var, running[1])
    assert norm.running_mean.grad is None


def test_dropout_follows_the_seed_and_is_off_in_eval():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Dropout(0.25), nn.Linear(400, 2))
    X, Y, loss = torch.ones(2, 400), torch.zeros(2, 2), nn.MSELoss()

    def mask(seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        return PCInfer(model, loss, X, Y, "Exact")[0][1]

    first = mask(1)
    assert set(first.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert not torch.equal(first[0], first[1]) and not torch.equal(first, mask())
    assert torch.equal(first, mask(1))
    model.eval()
    assert torch.equal(mask(), X)


def replaced(index, module):
    model = mnist_model()
    model[index] = module
    return model


def behind(module):
    return replaced(1, nn.Sequential(module, nn.Conv2d(10, 5, 3), nn.Flatten()))


class MyLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(3, 3), TypeError, "the model is of class Linear"),
        (replaced(1, nn.BatchNorm2d(10)), TypeError, "module 1 is of class BatchNorm2d in training mode"),
        (replaced(1, nn.BatchNorm1d(10).eval()), TypeError, "module 1 is of class BatchNorm1d, expected"),
        (
            replaced(1, nn.BatchNorm2d(10, track_running_stats=False).eval()),
            ValueError,
            "module 1 .BatchNorm2d.: track_running_stats is False, expected True",
        ),
        (behind(nn.LayerNorm(13)), ValueError, r"module 1.0 .LayerNorm.: weight has shape \(13,\)"),
        (behind(nn.RMSNorm(13, elementwise_affine=False)), ValueError, r"1.0 .RMSNorm.: normalized_shape is \(13,\)"),
        (replaced(1, nn.LayerNorm([10, 13, 13], bias=False)), ValueError, "module 1 .LayerNorm.: bias is False"),
        (replaced(3, nn.Dropout(1.0)), ValueError, "module 3 .Dropout.: dropout has p 1"),
        (replaced(3, MyLinear(50, 30)), TypeError, "module 3 is of class MyLinear"),
        (mnist_model().double(), TypeError, "module 0.0 .Conv2d.: weight is torch.float64 on cpu"),
        (mnist_model().to("meta"), TypeError, "module 0.0 .Conv2d.: weight is torch.float32 on meta"),
        (replaced(0, nn.Conv2d(1, 10, 3, padding_mode="reflect")), ValueError, "module 0 .Conv2d.: padding_mode"),
        (replaced(0, nn.MaxPool2d(2, return_indices=True)), ValueError, "module 0 .MaxPool2d.: return_indices is True"),
        (replaced(3, nn.Softplus(0)), ValueError, "module 3 .Softplus.: softplus has beta 0"),
        (replaced(2, nn.Unflatten(1, (5, 10))), ValueError, r"module 2 .Unflatten.: it unflattens axis 1 to \(5, 10\)"),
        (replaced(1, nn.Softmax(1)), TypeError, "module 1 is of class Softmax, expected Sequential, Conv2d, "),
        (replaced(1, nn.Dropout2d()), TypeError, "module 1 is of class Dropout2d"),
        (replaced(1, nn.Sequential()), ValueError, "module 1 .Sequential. is empty"),
        (nn.Sequential(), ValueError, "the model is empty"),
        (replaced(1, nn.Flatten(0)), ValueError, "module 1 .Flatten.: it flattens axes 0 to -1"),
        (replaced(1, nn.Linear(13, 2)), ValueError, r"module 1 .Linear.: linear takes a flat input, found \[10, 13, 13\]"),
        (replaced(2, nn.Linear(600, 50)), ValueError, r"module 2 .Linear.: weight has shape \(50, 600\)"),
    ],
)
def test_models_that_are_not_taken_are_refused(model, error, message):
    X, Y = torch.rand(2, 1, 28, 28), torch.tensor([1, 2])
    with pytest.raises(error, match=message):
        PCInfer(model, nn.CrossEntropyLoss(), X, Y, "Exact")


def test_tied_parameters_are_refused(problem):
    model, *rest = problem
    model.insert(4, nn.Linear(30, 30))
    model.insert(5, nn.Linear(30, 30))
    model[5].weight = model[4].weight
    with pytest.raises(ValueError, match="the same parameter in two places"):
        PCInfer(model, *rest, "Exact")


def test_losses_and_batches_that_are_not_taken_are_refused(problem):
    model, loss_fun, X, Y = problem
    for loss, error, message in [
        (nn.functional.cross_entropy, TypeError, "the loss is of class function, expected torch.nn.CrossEntropyLoss or"),
        (nn.L1Loss(), TypeError, "the loss is of class L1Loss"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), ValueError, "label_smoothing"),
        (nn.MSELoss(reduction="none"), ValueError, "the reduction 'none', expected 'mean' or 'sum'"),
    ]:
        with pytest.raises(error, match=message):
            PCInfer(model, loss, X, Y, "Exact")
    for x, y, error, message in [
        (X.double(), Y, TypeError, "X is torch.float64 on cpu"),
        (X.numpy(), Y, TypeError, "X is of class ndarray"),
        (X, Y.int(), TypeError, "Y is torch.int32 on cpu, expected a tensor of torch.float32 on cpu for values, or"),
        (X, torch.rand(6, 10), ValueError, "cross_entropy takes one class label"),
        (X, Y[:5], ValueError, "5 labels for 6 samples"),
        (X.flatten(1), Y, ValueError, "module 0.0 .Conv2d.: conv2d takes an input of"),
    ]:
        with pytest.raises(error, match=message):
            PCInfer(model, loss_fun, x, y, "Exact")
    with pytest.raises(ValueError, match=r"y has shape \[6, 9\], expected \[samples, 10\]"):
        PCInfer(model, nn.MSELoss(), X, torch.rand(6, 9), "Exact")


def test_a_batch_that_is_not_contiguous_is_copied(problem):
    model, loss_fun, X, Y = problem
    vhat, *_ = PCInfer(model, loss_fun, X.transpose(2, 3), Y, "Exact")
    assert relative_error(vhat[-1].numpy(), model(X.transpose(2, 3)).detach().numpy()) < 1e-5
    X.requires_grad_()
    PCInfer(model, loss_fun, X, Y, "Exact")


def test_a_divergence_is_a_warning(problem):
    model, *rest = problem
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    with pytest.warns(RuntimeWarning, match="diverged at sample"):
        vhat, loss, *_ = PCInfer(model, *rest, "Strict", 0.9, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PCInfer(model, *rest, "Exact")


def test_inference_for_training_sets_the_same_gradients(problem):
    model, loss_fun, X, Y = problem
    for ErrType, method in [("Strict", pc.Strict(0.1, 20)), ("FixedPred", pc.FixedPrediction(0.1, 20)), ("Exact", pc.Exact())]:
        _, want, *_ = PCInfer(model, loss_fun, X, Y, ErrType)
        gradients = [parameter.grad for parameter in model.parameters()]
        assert relative_error(infer(model, loss_fun, X, Y, method).item(), want.item()) < 1e-6
        for gradient, parameter in zip(gradients, model.parameters()):
            assert gradient is not parameter.grad
            assert relative_error(parameter.grad.numpy(), gradient.numpy()) < 1e-5
    with torch.no_grad():
        model[0][0].weight.mul_(50)
    with pytest.raises(pc.DivergenceError):
        infer(model, loss_fun, X, Y, pc.Strict(0.9, 20))


def test_networks_of_modules():
    network = pc.Network.from_torch(mnist_model(), nn.MSELoss(reduction="sum"), (1, 28, 28))
    assert network.layers[1] == ["conv2d", "relu", "flatten"] and network.loss == "mse, sum"
    model = mnist_model()
    session = pc.Session(network, 3, pc.Exact())
    x, y = torch.rand(3, 1, 28, 28), torch.rand(3, 10)
    loss = session.infer(tensors(model), x.numpy(), y.numpy())
    want = nn.MSELoss(reduction="sum")(model(x), y)
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-5)
    for gradient, parameter in zip(session.gradients.values(), model.parameters()):
        assert relative_error(gradient, parameter.grad.numpy()) < 1e-4


def test_the_package_imports_no_torch():
    program = "import sys, predictive_coding, predictive_coding.torch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_two_threads_may_use_one_model(problem):
    model, *rest = problem
    want = PCInfer(model, *rest, "Strict")[1].item()
    losses = []

    def work():
        losses.extend(PCInfer(model, *rest, "Strict")[1].item() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == [want] * 100


def test_threads_are_apart_from_pytorchs(problem):
    model, *rest = problem
    want = PCInfer(model, *rest, "Strict")
    try:
        for threads in (1, 3):
            set_num_threads(threads)
            clear_sessions()
            assert all(map(torch.equal, PCInfer(model, *rest, "Strict")[0], want[0]))
            assert [key[-1] for key in _calls._sessions] == [threads]
        with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
            set_num_threads(0)
    finally:
        set_num_threads(None)
    clear_sessions()
    PCInfer(model, *rest, "Strict")
    assert [key[-1] for key in _calls._sessions] == [torch.get_num_threads()]


def test_a_model_is_forgotten_with_its_last_reference():
    model = nn.Sequential(nn.Linear(3, 2))
    read = len(_modules._READ)
    PCInfer(model, nn.MSELoss(), torch.rand(1, 3), torch.rand(1, 2), "Exact")
    assert len(_modules._READ) == read + 1
    del model
    gc.collect()
    assert len(_modules._READ) == read


def test_memory_and_references_stay_as_they_are_over_many_calls():
    from test_session import resident_kilobytes

    torch.manual_seed(1)
    model = nn.Sequential(nn.Sequential(nn.Linear(20, 30), nn.Tanh()), nn.Linear(30, 5))
    X, Y, loss_fun = torch.randn(4, 20), torch.tensor([0, 1, 2, 3]), nn.CrossEntropyLoss()
    clear_sessions()
    for _ in range(100):
        PCInfer(model, loss_fun, X, Y, "Strict", n=2)
    counted = [model, X, Y, model[1].weight]
    gc.collect()
    before, resident = [sys.getrefcount(value) for value in counted], resident_kilobytes()
    for _ in range(10_000):
        PCInfer(model, loss_fun, X, Y, "Strict", n=2)
    gc.collect()
    assert [sys.getrefcount(value) for value in counted] == before
    assert resident_kilobytes() < resident + 2048
