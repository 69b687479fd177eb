//! How a method relaxes: the options of that, and how they are told.

use std::str::FromStr;

use clap::{Args, Command, ValueEnum};
use predictive_coding::{
    Algorithm, Error, ErrorBased, Eta, FixedPrediction, FreeInput, Incremental, LayoutChoice, Method, Network, Nudge,
    OnDivergence, Options, Solver, Strict,
};
use serde_json::{Value, json};

use crate::console::{Failure, note};
use crate::options::MethodName;

const DEFAULT_ETA: f64 = 0.1;
const DEFAULT_ITERATIONS: usize = 20;
const DEFAULT_SWEEPS: usize = 5;
const DEFAULT_MOMENTUM: f64 = 0.9;
/// The name of the solver that takes no steps of a size.
const SWEEPS: &str = "sweeps";

/// Products with the Hessian that an automatic step is chosen by: of a single batch, for which a percent
/// matters, and in training, where the estimate goes on from the step before.
pub const INFERENCE_PRODUCTS: usize = 16;
pub const TRAINING_PRODUCTS: usize = 1;

/// How strict goes down its energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SolverName {
    /// Gradient descent in all beliefs at once, as in the paper
    Steps,
    /// Sweeps up and down the layers, which need no step size and never raise the energy
    Sweeps,
}

/// The optimizer of strict's beliefs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BeliefOptimizer {
    /// Gradient descent
    Plain,
    /// Gradient descent with momentum
    Momentum,
    /// Gradient descent with Nesterov's momentum
    Nesterov,
    /// Adam with PyTorch's defaults
    Adam,
}

/// What becomes of a sample whose relaxation diverges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDivergenceName {
    /// Stop the run before the step
    Stop,
    /// Leave the sample out of the gradients
    Skip,
    /// Relax the sample again with its own largest stable step size, and leave it out if it still diverges
    Shrink,
}

impl OnDivergenceName {
    pub fn choice(self) -> OnDivergence {
        match self {
            OnDivergenceName::Stop => OnDivergence::Stop,
            OnDivergenceName::Skip => OnDivergence::Skip,
            OnDivergenceName::Shrink => OnDivergence::Shrink,
        }
    }
}

/// What lies across the lanes of vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// The faster one, by a count of operations
    Auto,
    /// One sample per lane; good for few channels and full batches
    Images,
    /// One channel per lane; good for many channels and small batches
    Channels,
}

impl LayoutName {
    fn choice(self) -> LayoutChoice {
        match self {
            LayoutName::Auto => LayoutChoice::Auto,
            LayoutName::Images => LayoutChoice::Images,
            LayoutName::Channels => LayoutChoice::Channels,
        }
    }
}

/// How convolutions are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConvolutionName {
    /// The faster algorithm for each layer, by a count of operations
    Auto,
    /// The definition of a convolution
    Direct,
    /// Winograd's algorithm for 3 x 3 kernels: a quarter of the multiplications, twice the rounding error
    Winograd,
}

impl ConvolutionName {
    pub fn algorithm(self) -> Algorithm {
        match self {
            ConvolutionName::Auto => Algorithm::Auto,
            ConvolutionName::Direct => Algorithm::Direct,
            ConvolutionName::Winograd => Algorithm::Winograd,
        }
    }
}

/// A step size as it is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Given(Eta),
    /// The largest stable one of each sample.
    Automatic,
}

impl FromStr for Step {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected a number above 0, such as 0.1, a number for each hidden layer, or auto";
        Ok(if text == "auto" { Step::Automatic } else { Step::Given(text.parse().map_err(|_: Error| wrong)?) })
    }
}

/// How to relax, for whatever method.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Relaxation")]
pub struct Relaxing {
    // Both are described by [`explain`].
    #[arg(long, value_name = "E", allow_hyphen_values = true)]
    eta: Option<Step>,
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// fixed-prediction: run every iteration, instead of one backward pass with the same result
    #[arg(long)]
    pub literal: bool,
    /// error-based: estimate lambda_max where --eta is given too, and tell how far the steps are from unstable
    #[arg(long)]
    curvature: bool,
    /// strict: stop the relaxation of a sample once a step changes its deviation u by at most T |u|
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub tolerance: Option<f64>,
    /// strict: how to minimise the energy
    #[arg(long, value_enum, default_value = "steps")]
    pub solver: SolverName,
    /// strict by steps: optimizer of the beliefs [default: plain, or momentum with --belief-momentum]
    #[arg(long, value_enum)]
    belief_optimizer: Option<BeliefOptimizer>,
    /// strict by steps: momentum of the beliefs, at least 0 and below 1, for momentum and nesterov [default: 0.9]
    #[arg(long, value_name = "M", allow_hyphen_values = true)]
    pub belief_momentum: Option<f64>,
    /// strict by steps: compute errors and gradients at the final beliefs, instead of before the last update
    #[arg(long)]
    fresh_errors: bool,
    /// strict by steps: multiply the loss by B in the relaxation, and divide the gradients by B
    ///
    /// B is positive or negative, but not 0. For small B, the gradients approach backpropagation's.
    #[arg(long, value_name = "B", allow_hyphen_values = true)]
    nudge: Option<f64>,
    /// Relax with B and with -B, and use the difference of the gradients; needs --nudge
    #[arg(long)]
    centred: bool,
    /// strict by steps: the input relaxes too, from the given one on
    #[arg(long)]
    pub free_input: bool,
    /// Precision of a free input, which ties it to the given one [default: 0]; needs --free-input
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    input_precision: Option<f64>,
    /// What fills the lanes of a vector; results differ only by rounding
    #[arg(long, value_enum, default_value = "auto")]
    pub layout: LayoutName,
    /// Algorithm of convolutions; results differ only by rounding
    #[arg(long, value_enum, default_value = "auto")]
    pub convolution: ConvolutionName,
}

/// Describes the step size and the iterations in the help of a command that has defaults for them, or none, and that
/// estimates an automatic step size by so many products.
pub fn explain(command: Command, has_defaults: bool, products: usize) -> Command {
    let [eta_default, iterations_default] = match has_defaults {
        true => [
            format!("[default: {DEFAULT_ETA}]"),
            format!("[default: {DEFAULT_ITERATIONS}, with --solver sweeps {DEFAULT_SWEEPS}]"),
        ],
        false => [
            "[required, but not with --solver sweeps]".into(),
            format!("[required; default with --solver sweeps: {DEFAULT_SWEEPS}]"),
        ],
    };
    let eta = format!(
        "Step size: a number, a number for each hidden layer (0.1,0.1,0.05), or auto; not for exact {eta_default}"
    );
    let automatic = format!(
        "auto is for strict and error-based. Each sample then takes a step size of 1.8 / lambda_max, where lambda_max is the largest \
         eigenvalue of the Hessian of its energy; 2 / lambda_max is the limit of stability. lambda_max is estimated by \
         {products} {} with the Hessian; one costs as much as one to two iterations.",
        if products == 1 { "product" } else { "products" }
    );
    let iterations = format!("Number of iterations, or of sweeps; not for exact {iterations_default}");
    command
        .mut_arg("eta", |option| option.long_help(format!("{eta}\n\n{automatic}")).help(eta))
        .mut_arg("iterations", |option| option.help(iterations))
}

impl Relaxing {
    /// The step size, the usual one if none was given.
    fn eta(&self) -> Step {
        self.eta.clone().unwrap_or(Step::Given(DEFAULT_ETA.into()))
    }

    /// The number of iterations of a method, the usual one if none was given.
    fn iterations(&self, method: MethodName) -> usize {
        self.iterations.unwrap_or(match (self.solver, method) {
            (SolverName::Sweeps, MethodName::Strict) => DEFAULT_SWEEPS,
            _ => DEFAULT_ITERATIONS,
        })
    }

    /// Whether step size and number of iterations were given, which sweeps do without.
    pub fn is_complete(&self) -> bool {
        self.solver == SolverName::Sweeps || (self.eta.is_some() && self.iterations.is_some())
    }

    /// Refuses what the method does not know. Without a method all three are meant, and each takes what
    /// it knows.
    pub fn check(&self, method: Option<MethodName>) -> Result<(), Failure> {
        let sweeps = self.solver == SolverName::Sweeps;
        if sweeps && self.eta.is_some() && method.is_some() {
            return Err(Failure::usage("--eta was given, but --solver sweeps has no step size; leave it out"));
        }
        if self.centred && self.nudge.is_none() {
            return Err(Failure::usage("--centred was given without --nudge; add --nudge, for example --nudge 0.01"));
        }
        let by_momentum = matches!(self.optimizer(), BeliefOptimizer::Momentum | BeliefOptimizer::Nesterov);
        if self.belief_momentum.is_some() && !by_momentum {
            return Err(Failure::usage(
                "--belief-momentum was given, but is only for --belief-optimizer momentum and nesterov; leave it out",
            ));
        }
        let chosen = self.optimizer() != BeliefOptimizer::Plain;
        if chosen && (sweeps || self.eta == Some(Step::Automatic)) {
            return Err(Failure::usage(
                "an optimizer of the beliefs was given, but only steps with a given --eta have one; leave it out, or give --eta a \
                 number and leave out --solver",
            ));
        }
        if self.input_precision.is_some() && !self.free_input {
            return Err(Failure::usage("--input-precision was given without --free-input; add it"));
        }
        if sweeps && (self.fresh_errors || self.nudge.is_some() || self.free_input) {
            return Err(Failure::usage(
                "--fresh-errors, --nudge or --free-input was given, but is only for steps; leave it out for --solver sweeps",
            ));
        }
        let Some(method) = method else { return Ok(()) };
        let (exact, strict) = (method == MethodName::Exact, method == MethodName::Strict);
        let by_errors = method == MethodName::ErrorBased;
        let given = [
            ("--eta", exact && self.eta.is_some()),
            ("--iterations", exact && self.iterations.is_some()),
            ("--literal", method != MethodName::FixedPrediction && self.literal),
            ("--eta auto", !(strict || by_errors) && self.eta == Some(Step::Automatic)),
            ("--curvature", !by_errors && self.curvature),
            ("--tolerance", !strict && self.tolerance.is_some()),
            ("--belief-optimizer", !strict && self.belief_optimizer.is_some()),
            ("--belief-momentum", !strict && self.belief_momentum.is_some()),
            ("--fresh-errors", !strict && self.fresh_errors),
            ("--nudge", !strict && self.nudge.is_some()),
            ("--free-input", !strict && self.free_input),
            ("--solver sweeps", !strict && sweeps),
        ];
        let Some((option, _)) = given.into_iter().find(|&(_, wrong)| wrong) else { return Ok(()) };
        let name = method.name();
        Err(Failure::usage(match option {
            "--eta" | "--iterations" => {
                format!("{option} was given, but --method exact has no iterations; leave it out")
            }
            "--literal" => {
                format!("--literal was given, but is only for --method fixed-prediction; leave it out for {name}")
            }
            "--curvature" => {
                format!("--curvature was given, but is only for --method error-based; leave it out for {name}")
            }
            "--eta auto" => {
                format!(
                    "--eta auto was given, but is only for --method strict and error-based; give {name} a number such as \
                     0.1"
                )
            }
            _ => format!("{option} was given, but is only for --method strict; leave it out for {name}"),
        }))
    }

    /// A method with these settings; an automatic step is chosen by so many products.
    pub fn method(&self, name: MethodName, products: usize) -> Result<Method, Failure> {
        let iterations = self.iterations(name);
        let given = || match self.eta() {
            Step::Given(eta) => eta,
            // Beside strict, which has its own, fixed-prediction has the usual one.
            Step::Automatic => DEFAULT_ETA.into(),
        };
        let method = match (name, self.solver, self.eta()) {
            (MethodName::Exact, ..) => Method::Exact,
            (MethodName::FixedPrediction, ..) => {
                FixedPrediction::new(given(), iterations).with_literal(self.literal).into()
            }
            (MethodName::Strict, SolverName::Sweeps, _) => self.strict(Strict::sweeps(iterations)),
            (MethodName::Strict, _, Step::Automatic) => self.strict(Strict::automatic(products, iterations)),
            (MethodName::Strict, ..) => self.strict(Strict::by(self.solver(given()), iterations)),
            (MethodName::ErrorBased, _, Step::Automatic) => ErrorBased::automatic(products, iterations).into(),
            (MethodName::ErrorBased, ..) => {
                let curvature = if self.curvature { products } else { 0 };
                ErrorBased::new(given(), iterations).with_curvature(curvature).into()
            }
            (MethodName::Incremental, ..) => Incremental::new(given(), iterations).into(),
        };
        method.validate()?;
        Ok(method)
    }

    fn optimizer(&self) -> BeliefOptimizer {
        let usual = if self.belief_momentum.is_some() { BeliefOptimizer::Momentum } else { BeliefOptimizer::Plain };
        self.belief_optimizer.unwrap_or(usual)
    }

    /// Steps of these sizes by the beliefs' optimizer.
    fn solver(&self, eta: Eta) -> Solver {
        let momentum = self.belief_momentum.unwrap_or(DEFAULT_MOMENTUM);
        match self.optimizer() {
            BeliefOptimizer::Plain => Solver::Steps(eta),
            BeliefOptimizer::Momentum => Solver::Momentum { eta, momentum, nesterov: false },
            BeliefOptimizer::Nesterov => Solver::Momentum { eta, momentum, nesterov: true },
            BeliefOptimizer::Adam => Solver::Adam(eta),
        }
    }

    fn strict(&self, strict: Strict) -> Method {
        let nudge = self.nudge.map(|beta| Nudge::new(beta).with_centred(self.centred));
        let precision = self.input_precision.unwrap_or(0.0);
        let free_input = self.free_input.then(|| FreeInput::default().with_precision(precision));
        let strict = strict.with_tolerance(self.tolerance).with_fresh_errors(self.fresh_errors);
        strict.with_nudge(nudge).with_free_input(free_input).into()
    }

    /// The options of a session.
    pub fn options(&self) -> Options {
        Options::default().with_layout(self.layout.choice()).with_convolution(self.convolution.algorithm())
    }
}

/// The settings of a method, if it is strict.
pub fn strict(method: &Method) -> Option<&Strict> {
    if let Method::Strict(strict) = method { Some(strict) } else { None }
}

/// Whether samples go down their energies differently, or it is told how.
pub fn adapts(method: &Method) -> bool {
    let settles = |strict: &Strict| strict.solver == Solver::Sweeps || strict.tolerance.is_some();
    let told = matches!(method, Method::ErrorBased(ErrorBased { curvature: 1.., .. }));
    method.automatic_products().is_some() || told || strict(method).is_some_and(settles)
}

/// The step size of a method, if it takes steps: a number, one for each hidden layer, or `auto`.
pub fn step(method: &Method) -> Option<String> {
    let given = method.eta().map(|eta| eta.to_string().replace(',', " | "));
    given.or_else(|| method.automatic_products().map(|_| "auto".into()))
}

/// A method with all that it was given, as in `strict (0.1, 20, tolerance 0.001)` or `strict (sweeps, 5)`.
pub fn title(method: &Method) -> String {
    let Some(iterations) = method.iterations() else { return method.to_string() };
    let step = step(method).unwrap_or_else(|| SWEEPS.into());
    let mut parts = vec![step, iterations.to_string()];
    if matches!(method, Method::FixedPrediction(fixed) if fixed.literal) {
        parts.push("literal".into());
    }
    if let Some(strict) = strict(method) {
        match strict.solver {
            Solver::Momentum { momentum, .. } => parts.push(format!("{} {momentum}", strict.solver)),
            Solver::Adam(_) => parts.push("adam".into()),
            _ => {}
        }
        parts.extend(strict.tolerance.map(|tolerance| format!("tolerance {tolerance}")));
        parts.extend(strict.fresh_errors.then(|| "fresh errors".into()));
        let centred = |nudge: Nudge| if nudge.centred { ", centred" } else { "" };
        parts.extend(strict.nudge.map(|nudge| format!("nudge {}{}", nudge.beta, centred(nudge))));
    }
    format!("{method} ({})", parts.join(", "))
}

/// What a method does with a sample that diverges, if it goes down an energy that could rise.
pub fn on_divergence(method: &Method) -> Option<OnDivergence> {
    match method {
        Method::Strict(strict) => Some(strict.on_divergence),
        Method::ErrorBased(errors) => Some(errors.on_divergence),
        _ => None,
    }
}

/// The settings of a method, as they are told in JSON; null where a method has none.
pub fn settings(method: &Method) -> Value {
    let strict = strict(method);
    // Whose steps are automatic is told by eta.
    let solver = match strict.map(|strict| &strict.solver) {
        None | Some(Solver::Automatic { .. }) => "steps",
        Some(solver) => solver.name(),
    };
    let momentum = match strict.map(|strict| &strict.solver) {
        Some(Solver::Momentum { momentum, .. }) => Some(momentum),
        _ => None,
    };
    let eta = match method.eta() {
        Some(Eta::Uniform(eta)) => json!(eta),
        Some(etas) => json!(etas.values()),
        None => json!(method.automatic_products().map(|_| "auto")),
    };
    json!({
        "method": method.name(),
        "solver": method.iterations().map(|_| solver),
        "momentum": momentum,
        "eta": eta,
        "iterations": method.iterations(),
        "literal": matches!(method, Method::FixedPrediction(fixed) if fixed.literal),
        "tolerance": strict.and_then(|strict| strict.tolerance),
        "fresh_errors": strict.is_some_and(|strict| strict.fresh_errors),
        "nudge": strict.and_then(|strict| strict.nudge).map(|nudge| nudge.beta),
        "centred": strict.is_some_and(|strict| strict.nudge.is_some_and(|nudge| nudge.centred)),
        "free_input": strict.and_then(|strict| strict.free_input).map(|input| input.precision),
        "on_divergence": on_divergence(method).map(OnDivergence::name),
    })
}

/// Says which layers a relaxation does not reach, if there are any.
pub fn warn_of_unreached(method: &Method, network: &Network) {
    let (layers, unreached) = (network.layers().len(), network.unreached(method));
    let told = match unreached[..] {
        [] => return,
        [layer] => format!("layer {layer}"),
        [first, .., last] if last - first + 1 == unreached.len() => format!("layers {first} to {last}"),
        _ => format!("layers {}", unreached.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    };
    match method.iterations() {
        Some(iterations) if iterations < layers => note(&format!(
            "warning: {iterations} iterations of {} do not reach {told}, where the gradients are 0; use at least {layers} \
             iterations",
            method.name()
        )),
        _ => note(&format!("warning: the output does not depend on {told}, where the gradients are 0")),
    }
}
