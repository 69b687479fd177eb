"""How prediction errors are found: the methods, each with the options that only it knows.

The formulas are those of Rosenbaum, "On the relationship between predictive coding and backpropagation" (PLoS ONE 17(3),
e0266102, 2022), in the sign convention of Torch2PC since 2024. v-hat_l are the activations of the forward pass, v_l the
beliefs, epsilon_l the prediction errors, J_l the Jacobian of layer l by its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Union

from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Exact:
    """Backpropagation: epsilon_l = dLoss/dv-hat_l, v_l = v-hat_l - epsilon_l."""


@dataclass(frozen=True)
class FixedPrediction:
    """Predictions and Jacobians stay those of the forward pass (Algorithm 2 of the paper).

    From v = v-hat, `iterations` times for all hidden layers at once: epsilon_l = v-hat_l - v_l, then
    v_l += eta (epsilon_l - J_{l+1}(v-hat_l)^T epsilon_{l+1}), with epsilon_L = dLoss/dv-hat_L.
    """

    eta: Union[float, Sequence[float]] = 0.1
    """Step size, finite and above 0; or one for each hidden layer, from the lowest on."""
    iterations: int = 20
    """Number of iterations, at least 1."""
    literal: bool = False
    """Runs the iterations one by one, to the same result but for rounding."""


@dataclass(frozen=True)
class Automatic:
    """Steps of each sample's largest size with which descent is stable, by a margin: a solver of `Strict`, or the step size
    of `ErrorBased`."""

    products: int = 1
    """Products with the Hessian that it is estimated by, each as costly as an iteration: 1 while training, 16 for it to
    be right to about a percent."""


@dataclass(frozen=True)
class Nudge:
    """A weak pull of the loss, of `Strict`: it is multiplied by beta, and the gradients are divided by it."""

    beta: float
    """Factor of the loss, of either sign, finite and not 0."""
    centred: bool = False
    """Relaxes with -beta as well; the gradients are (gradients(beta) - gradients(-beta)) / (2 beta)."""


@dataclass(frozen=True)
class FreeInput:
    """An input that relaxes, of `Strict`: its belief v_0 starts at the given x and moves as the others do.

    The energy has the term precision / 2 |v_0 - x|^2 for it. `Session.infer` takes an `input_mask` of what stays as it is.
    """

    precision: float = 0.0
    """Finite and at least 0. With 0, x is where the input starts, and no more."""


@dataclass(frozen=True, eq=False)
class Deviation:
    """A start of `Session.infer`: v-hat plus these deviations."""

    deviation: ArrayLike
    """float32 `[samples, *shape]` of the layer."""


@dataclass(frozen=True)
class Strict:
    """Predictions follow the beliefs (Algorithm 1 of the paper).

    `iterations` times for all hidden layers at once: epsilon_l = f_l(v_{l-1}) - v_l and
    epsilon_L = dLoss/df_L(v_{L-1}), then v_l += eta (epsilon_l - J_{l+1}(v_l)^T epsilon_{l+1}).
    """

    eta: Union[float, Sequence[float]] = 0.1
    """Step size, finite and above 0; or one for each hidden layer, from the lowest on. For solvers that take steps of a
    given size."""
    iterations: int = 20
    """Number of iterations, at least 1; of sweeps the most."""
    solver: Union[str, Automatic] = "steps"
    """How the beliefs move: by `"steps"` of the size eta, such steps with `"momentum"`, with `"nesterov"`'s form of it, or
    as `"adam"` takes them; by steps of an `Automatic` size; by `"sweeps"` straight to the equilibrium; or as
    `"published-2022"`, with the signs of the code that the paper's figures come from."""
    momentum: float = 0.9
    """Share of the sum of directions that the solvers of that name keep, at least 0 and less than 1."""
    tolerance: Optional[float] = None
    """A sample has settled once an iteration moves its beliefs by at most this times their length."""
    on_divergence: str = "stop"
    """What becomes of a sample that diverges: `"stop"` raises `DivergenceError`, `"skip"` leaves it out of the gradients,
    `"shrink"` lets it relax again by a smaller step."""
    fresh_errors: bool = False
    """The errors are those at the final beliefs. Usually they are those of the last iteration, one update older."""
    nudge: Optional[Nudge] = None
    """The loss counts for more or less than once."""
    free_input: Optional[FreeInput] = None
    """The input moves too; for solvers that take steps, but not for `"published-2022"`."""


@dataclass(frozen=True)
class ErrorBased:
    """The errors are the variables, and the beliefs follow from them (Goemaere et al., arXiv 2505.20137).

    With s_0 = x and s_l = f_l(s_{l-1}) - epsilon_l, from epsilon = 0, `iterations` times for all hidden layers at once
    epsilon_l += eta (J_{l+1}^T ... J_L^T epsilon_L - epsilon_l), with epsilon_L = dLoss/df_L(s_{L-1}).
    """

    eta: Union[float, Sequence[float], Automatic] = 0.1
    """Step size, finite and above 0; or one for each hidden layer, from the lowest on; or of an `Automatic` size."""
    iterations: int = 20
    """Number of iterations, at least 1."""
    on_divergence: str = "stop"
    """What becomes of a sample that diverges: `"stop"` or `"skip"`."""
    curvature: int = 0
    """Number of products with the Hessian to estimate lambda_max of each sample where `eta` is given; see `Session.descents`."""


@dataclass(frozen=True)
class Incremental:
    """Parameters step in every iteration (Salvatori et al., arXiv 2212.00720): a method of `Session.learn`.

    Iterations are those of `Strict`, and after each the optimiser takes a step along the gradients.
    """

    eta: Union[float, Sequence[float]] = 0.1
    """Step size, finite and above 0; or one for each hidden layer, from the lowest on."""
    iterations: int = 20
    """Number of iterations, at least 1."""


Method = Union[Exact, FixedPrediction, Strict, ErrorBased, Incremental]
