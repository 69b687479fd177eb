"""What the library computes. Arrays are float32 and row-major; others are converted by a copy."""

import os
from typing import Any, Iterator, Mapping, Optional, Sequence, Tuple, Union, type_check_only

import numpy
from numpy.typing import ArrayLike, NDArray

from .methods import Deviation, Method

__version__: str

_Path = Union[str, "os.PathLike[str]"]
_Parameters = Union["Parameters", Mapping[str, ArrayLike], Sequence[ArrayLike]]

class DivergenceError(ArithmeticError):
    """A strict relaxation climbed instead of descending; it was run to its end, and the session can be read."""

    sample: int
    """Index of the sample in its batch, from 0."""
    layer: int
    """The layer, from 1, whose term of the energy rose most."""
    iteration: int
    """The iteration whose energy was too large, from 1."""
    finite: bool
    """Whether that energy was finite."""

def levels() -> list[str]:
    """The SIMD levels of this machine, the widest first."""

def run(arguments: Sequence[str]) -> int:
    """Runs the program with these arguments, the first of which is its name; returns the exit status."""

class Network:
    """A chain of layers v_l = f_l(v_{l-1}), each of any number of operations, and the loss of the last."""

    @staticmethod
    def from_toml(text: str) -> Network:
        """The network that the text of a model file describes. ValueError tells the line or the operation."""
    @staticmethod
    def from_file(path: _Path) -> Network:
        """The network of a model file. OSError if it can not be read or understood."""
    @staticmethod
    def from_torch(model: Any, loss: Any, input_shape: Sequence[int]) -> Network:
        """The network of a `torch.nn.Sequential`, each of whose modules is a layer, and a loss of `torch.nn`.

        `input_shape` is that of one sample. TypeError and ValueError name a module that is not taken by index and class.
        """
    def to_toml(self) -> str:
        """The text of a model file with every argument spelled out."""
    def with_precision(self, layer: int, precision: float) -> Network:
        """The same network with a precision for a hidden layer, from 1: the factor of its squared errors in the energy."""
    def initialize(self, seed: int = 0) -> Parameters:
        """Parameters drawn from PyTorch's default distributions, the same on every machine."""
    def flops(self, method: Method, batch: int) -> int:
        """Multiplications and additions of a step on `batch` samples, every multiply-add counted as two."""
    @property
    def input_shape(self) -> Tuple[int, ...]:
        """The shape of one sample."""
    @property
    def output_shape(self) -> Tuple[int, ...]:
        """The shape of one sample's output."""
    @property
    def layer_shapes(self) -> list[Tuple[int, ...]]:
        """The shape of one sample of each layer's output, from the lowest on."""
    @property
    def layers(self) -> list[list[str]]:
        """The names of each layer's operations."""
    @property
    def parameters(self) -> dict[str, Tuple[int, ...]]:
        """Names and shapes of the parameters, in their order."""
    @property
    def precisions(self) -> list[float]:
        """The precisions of all layers, from the lowest on."""
    @property
    def loss(self) -> str:
        """The loss by name, with what is not as usual behind it."""
    @property
    def reduction(self) -> str:
        """How the loss makes one number of a batch: "mean" or "sum"."""
    def __len__(self) -> int:
        """Number of layers."""

class Parameters(Mapping[str, NDArray[numpy.float32]]):
    """The parameters of a network, a mapping from names to arrays.

    The names are those of PyTorch's state dict, `<layer>.<op>.weight` and `.bias`, both counted from 0. The arrays are
    views of one buffer: writing to them changes the parameters.
    """

    @staticmethod
    def load(network: Network, path: _Path) -> Parameters:
        """Reads the parameters of a network from a safetensors file."""
    def save(self, path: _Path) -> None:
        """Writes a safetensors file under the same names."""
    def copy(self) -> Parameters:
        """Parameters of the same values in a buffer of their own."""
    @property
    def flat(self) -> NDArray[numpy.float32]:
        """Every value, tensor after tensor: a view, as the tensors are."""
    def __getitem__(self, name: str) -> NDArray[numpy.float32]: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...

class Session:
    """Everything that a network, a batch size and a method need, planned once.

    Calls release the GIL. Two threads need a session each: one that is in use raises RuntimeError.
    """

    def __init__(
        self,
        network: Network,
        batch: int,
        method: Optional[Method] = None,
        *,
        level: Optional[str] = None,
        layout: str = "auto",
        convolution: str = "auto",
        dropout_seed: Optional[int] = None,
        threads: Optional[int] = None,
    ) -> None:
        """Plans a session for up to `batch` samples.

        Parameters
        ----------
        method : Exact, FixedPrediction, Strict, ErrorBased or Incremental
            By default `Strict()`.
        level : str, optional
            One of `levels()`; without it the machine's own, or that of the variable PREDICTIVE_CODING_LEVEL.
        layout : str
            What lies across the lanes of vectors: "auto", "images" or "channels".
        convolution : str
            How convolutions are computed: "auto", "direct" or "winograd".
        dropout_seed : int, optional
            The seed of the masks of dropout, which are others in every call of `infer` and `learn`. Without it there are
            none.
        threads : int, optional
            Without it all cores, or as many as the variable RAYON_NUM_THREADS says. Results do not depend on it.
        """
    def infer(
        self,
        parameters: _Parameters,
        x: ArrayLike,
        y: ArrayLike,
        *,
        mask: Optional[ArrayLike] = None,
        input_mask: Optional[ArrayLike] = None,
        start: Optional[Sequence[Union[None, ArrayLike, Deviation]]] = None,
    ) -> float:
        """Forward pass, relaxation and gradients of a batch; returns the loss of the forward pass.

        Parameters
        ----------
        parameters : Parameters, mapping of names to arrays, or sequence of arrays in the network's order
            float32 arrays that are contiguous are read where they lie.
        x : array
            float32 `[samples, *input_shape]`, of 1 to `batch` samples.
        y : array
            Class labels, whole numbers `[samples]`; or for the loss "mse" float32 `[samples, *output_shape]`.
        mask : array, optional
            For the loss "mse": float32 `[samples, *output_shape]`, 1 for targets that count and 0 for those that do not. A
            mean is over all of them, as without a mask.
        input_mask : array, optional
            For a `FreeInput`: float32 `[samples, *input_shape]`, 1 where the input stays as it is given and 0 where it
            moves.
        start : sequence, optional
            Where a strict relaxation starts, for the hidden layers from the lowest on: an array of beliefs
            `[samples, *shape]`, a `Deviation`, or None for v-hat, as it is for layers beyond its end.

        Raises
        ------
        ValueError
            If shapes or labels do not fit, a number is not finite, or the method or the loss takes no such mask or start.
            Nothing was computed.
        DivergenceError
            If a strict relaxation diverges. All iterations were run, and everything can be read.
        RuntimeError
            If another thread uses the session.
        """
    def learn(self, parameters: Parameters, optimizer: Optimizer, x: ArrayLike, y: ArrayLike) -> float:
        """One step of learning; returns the loss of the forward pass.

        `infer` and a step of the optimiser; for `Incremental` the optimiser steps in every iteration. `x` and `y` are as
        `infer` takes them, and it raises what `infer` raises.
        """
    def forward(self, parameters: _Parameters, x: ArrayLike, y: ArrayLike) -> float:
        """The forward pass alone; returns the loss. Afterwards only activations can be read."""
    def predict(self, parameters: _Parameters, x: ArrayLike) -> NDArray[numpy.float32]:
        """The outputs `[samples, *output_shape]` of a batch without targets."""
    def get(self, quantity: str, layer: int) -> NDArray[numpy.float32]:
        """A copy of a quantity of a layer, from 1, of the last call: `[samples, *shape]`.

        Quantities are "activation" and "error" of all layers, "belief" and "deviation" of hidden ones. With a `FreeInput`
        there are also "belief" and "deviation" of layer 0, the input's: v_0 and v_0 - x.
        """
    def loss_gradient(self) -> NDArray[numpy.float32]:
        """dLoss/dv-hat_L of the last call, `[samples, *output_shape]`."""
    def take_gradients(self) -> list[NDArray[numpy.float32]]:
        """The gradients of the last call in the network's order, in arrays that no later call changes, without a copy.

        The session goes on with another buffer, which is one of earlier calls if none of its arrays is used any more.
        RuntimeError if `gradients`, which are views, were asked for before; and they can not be asked for afterwards.
        """
    def clip_gradients(self, most: float) -> float:
        """Scales the gradients down to a norm of `most`, if theirs is larger; returns the norm that they had."""
    def set_dropout_step(self, step: int) -> None:
        """The step that the masks of the next call are drawn for: 0 at first, and one more after each call."""
    def record_energies(self, record: bool) -> None:
        """Whether the next strict relaxations record their energies."""
    def record_trace(self, record: bool) -> None:
        """Whether the next relaxations by strict, error-based and incremental are traced, which takes longer."""
    @property
    def gradients(self) -> dict[str, NDArray[numpy.float32]]:
        """dLoss/dtheta by name, as the method computes it. Views that can not be written to; the next `infer` changes them."""
    @property
    def energies(self) -> NDArray[numpy.float64]:
        """The energy of the batch before each update of the last strict relaxation, if they were recorded."""
    @property
    def trace(self) -> dict[str, NDArray[numpy.float64]]:
        """What the last relaxation was like before the update of each iteration, if it was traced.

        `energies`: the terms of the energy `[iterations, layers]`, precision_l / 2 |epsilon_l|^2 for all layers but the
        last, and the loss in its place; `gradient` `[iterations]`: the norm of the energy's gradient by all beliefs that
        are not clamped, or by all errors for error-based and sweeps.
        """
    @property
    def descents(self) -> dict[str, NDArray[Any]]:
        """How each sample of the last relaxation descended; nothing for exact and fixed-prediction.

        `eta`: its step size at last; `lambda_max`: the largest eigenvalue of its energy's Hessian, NaN if it was not
        estimated; `share_of_limit`: eta lambda_max / 2, from 1 on descent is unstable; `iterations`: after which it had
        settled; `diverged`; `shrunk`: whether it relaxed again by a smaller step.
        """
    @property
    def unreached(self) -> list[int]:
        """The layers, from 1, that no error reaches within the iterations."""
    @property
    def loss(self) -> float:
        """Loss of the forward pass of the last call."""
    @property
    def samples(self) -> int:
        """Samples of the last call."""
    @property
    def batch(self) -> int:
        """The most samples of a call."""
    @property
    def network(self) -> Network: ...
    @property
    def level(self) -> str:
        """The SIMD level that it computes with."""
    @property
    def layout(self) -> str:
        """What lies across the lanes of its vectors."""
    @property
    def bytes(self) -> int:
        """Bytes of all buffers."""

class Optimizer:
    """Changes parameters by their gradients, one elementwise pass each step."""

    lr: float
    """The learning rate of the next step."""
    def step(self, parameters: Parameters, gradients: _Parameters) -> None:
        """One step down the gradients."""
    @property
    def steps(self) -> int:
        """Steps taken so far."""
    @property
    def moments(self) -> list[Tuple[str, Parameters]]:
        """Copies of the running averages, by name."""
    def restore(self, steps: int, moments: Sequence[Tuple[str, Parameters]]) -> None:
        """Takes over the state of an optimiser of the same settings."""

class Sgd(Optimizer):
    """Stochastic gradient descent, as `torch.optim.SGD`."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None: ...

class Adam(Optimizer):
    """Adam, as `torch.optim.Adam`."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        *,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None: ...

class AdamW(Optimizer):
    """Adam with decoupled weight decay, as `torch.optim.AdamW`."""

    def __init__(
        self,
        parameters: Parameters,
        lr: float = 1e-3,
        *,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None: ...

class LearningRate:
    """The learning rate of each step of a run."""

    def __init__(
        self,
        base: float,
        steps: int,
        schedule: str = "constant",
        *,
        warmup: int = 0,
        every: Optional[int] = None,
        factor: float = 0.1,
    ) -> None:
        """`schedule` is "constant", "cosine" (to 0 at the end) or "step" (times `factor` after every `every` steps)."""
    def at(self, step: int) -> float:
        """The learning rate of a step, from 0."""

@type_check_only
class _Batches(Iterator[Tuple[NDArray[numpy.float32], NDArray[Any]]]):
    """The batches of one pass over a data set."""

    def __next__(self) -> Tuple[NDArray[numpy.float32], NDArray[Any]]: ...
    def __len__(self) -> int:
        """Batches that are left."""

class Dataset:
    """Samples of one shape with a class or values each."""

    def __init__(self, images: ArrayLike, targets: ArrayLike, classes: Optional[int] = None) -> None:
        """`images` float32 `[len, *shape]`; `targets` labels `[len]`, below `classes`, or float32 `[len, outputs]`."""
    @staticmethod
    def digits() -> Tuple[Dataset, Dataset]:
        """1,437 training and 360 held-out handwritten digits `[1, 8, 8]`, which are part of the package."""
    @staticmethod
    def mnist(directory: _Path) -> Tuple[Dataset, Dataset]:
        """The training and the test set of MNIST, or of another data set in its format, from a directory."""
    @staticmethod
    def cifar10(directory: _Path) -> Tuple[Dataset, Dataset]:
        """The training and the test set of CIFAR-10, binary version, from a directory."""
    def first(self, count: int) -> Dataset:
        """The first `count` samples, or all if there are fewer."""
    def batches(self, size: int, seed: int = 0, epoch: int = 1) -> _Batches:
        """Batches `(x, y)` of an epoch, from 1, in the order that seed and epoch give; the last may be smaller."""
    @property
    def images(self) -> NDArray[numpy.float32]:
        """A view `[len, *shape]` that can not be written to."""
    @property
    def targets(self) -> NDArray[Any]:
        """A view: labels, int64 `[len]`, or values, float32 `[len, outputs]`."""
    @property
    def shape(self) -> Tuple[int, ...]:
        """The shape of a sample."""
    @property
    def classes(self) -> int:
        """Number of classes, or of values of each target."""
    def __len__(self) -> int: ...
