//! How a method relaxes: the options of that, and how they are told.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use predictive_coding::{Algorithm, LayoutChoice, Method, OnDivergence, Options, Solver, StepSize};
use serde_json::{Value, json};

use crate::console::{Failure, note};
use crate::options::MethodName;

const DEFAULT_ETA: f64 = 0.1;
const DEFAULT_ITERATIONS: usize = 20;
const DEFAULT_SWEEPS: usize = 5;
/// The name of the solver that takes no steps of a size.
const SWEEPS: &str = "sweeps";

/// Products with the Hessian that an automatic step is chosen by: of a single batch, for which a percent
/// matters, and in training, where the estimate goes on from the step before.
pub const INFERENCE_PRODUCTS: usize = 16;
pub const TRAINING_PRODUCTS: usize = 1;

/// How strict goes down its energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SolverName {
    /// n steps of gradient descent in all beliefs at once, as in the paper
    Steps,
    /// At most n sweeps straight to the equilibrium, which need no step size and never climb
    Sweeps,
}

/// What becomes of a sample whose relaxation diverges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDivergenceName {
    /// The run ends before the step
    Stop,
    /// The sample is left out of the step
    Skip,
    /// The sample relaxes again by its own largest stable step, and is left out if it diverges even then
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
    /// The one that takes less time, by a count of operations
    Auto,
    /// A sample in every lane: for few channels and full batches
    Images,
    /// The channels of one sample: for many channels, and for small batches
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
    /// The algorithm that takes less time for each layer, by a count of operations
    Auto,
    /// As they are defined
    Direct,
    /// With a quarter of the multiplications and twice the rounding error, where kernels are 3 x 3
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Eta {
    Number(f64),
    /// One for each hidden layer.
    PerLayer(&'static [f64]),
    /// The largest stable one of each sample.
    Automatic,
}

impl FromStr for Eta {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Eta::Automatic),
            _ => {
                let numbers: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
                match numbers
                    .map_err(|_| "expected a number above 0, such as 0.1, one for each hidden layer, or auto")?
                {
                    one if one.len() == 1 => Ok(Eta::Number(one[0])),
                    // Of the command line, once.
                    several => Ok(Eta::PerLayer(several.leak())),
                }
            }
        }
    }
}

impl fmt::Display for Eta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Eta::Number(eta) => eta.fmt(f),
            Eta::PerLayer(etas) => f.write_str(&etas.iter().map(f64::to_string).collect::<Vec<_>>().join(" | ")),
            Eta::Automatic => f.write_str("auto"),
        }
    }
}

impl Eta {
    /// The number or numbers, or "auto".
    pub fn to_json(self) -> Value {
        match self {
            Eta::Number(eta) => json!(eta),
            Eta::PerLayer(etas) => json!(etas),
            Eta::Automatic => json!("auto"),
        }
    }
}

/// How to relax, for whatever method.
#[derive(Args, Clone, Copy, Debug)]
pub struct Relaxing {
    /// Step size of the relaxation: a number, one for each hidden layer as in 0.1,0.1,0.05, or, for strict, auto
    /// [default: 0.1; infer needs one]
    ///
    /// With auto each sample takes the largest step with which its relaxation is stable by a margin:
    /// 1.8 / lambda_max, the largest eigenvalue of its energy's Hessian, which is estimated by 16 products with it
    /// in infer and by 1 in train, each at the cost of one to two iterations. Not for exact.
    #[arg(long, value_name = "E", allow_hyphen_values = true)]
    eta: Option<Eta>,
    /// Iterations of the relaxation [default: 20, of strict by sweeps 5; infer needs them for steps]
    ///
    /// Not for exact.
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// Run the iterations of fixed-prediction one by one, to the same result as its one backward pass
    #[arg(long)]
    pub literal: bool,
    /// End the relaxation of a sample once a step moves its deviation u by at most T |u|; for strict
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    pub tolerance: Option<f64>,
    /// How strict goes down its energy
    #[arg(long, value_enum, default_value = "steps")]
    pub solver: SolverName,
    /// What lies across the lanes of vectors; results differ by rounding alone
    #[arg(long, value_enum, default_value = "auto")]
    pub layout: LayoutName,
    /// How convolutions are computed; results differ by rounding alone
    #[arg(long, value_enum, default_value = "auto")]
    pub convolution: ConvolutionName,
}

impl Relaxing {
    /// The step size, the usual one if none was given.
    pub fn eta(self) -> Eta {
        self.eta.unwrap_or(Eta::Number(DEFAULT_ETA))
    }

    /// The number of iterations of a method, the usual one if none was given.
    fn iterations(self, method: MethodName) -> usize {
        self.iterations.unwrap_or(match (self.solver, method) {
            (SolverName::Sweeps, MethodName::Strict) => DEFAULT_SWEEPS,
            _ => DEFAULT_ITERATIONS,
        })
    }

    /// Whether step size and number of iterations were given, which sweeps do without.
    pub fn is_complete(self) -> bool {
        self.solver == SolverName::Sweeps || (self.eta.is_some() && self.iterations.is_some())
    }

    /// Refuses what the method does not know. Without a method all three are meant, and each takes what
    /// it knows.
    pub fn check(self, method: Option<MethodName>) -> Result<(), Failure> {
        let sweeps = self.solver == SolverName::Sweeps;
        if sweeps && self.eta.is_some() && method.is_some() {
            return Err(Failure::usage("--eta was given, but --solver sweeps takes no steps of a size; leave it out"));
        }
        let Some(method) = method else { return Ok(()) };
        let (exact, strict) = (method == MethodName::Exact, method == MethodName::Strict);
        let given = [
            ("--eta", exact && self.eta.is_some()),
            ("--iterations", exact && self.iterations.is_some()),
            ("--literal", method != MethodName::FixedPrediction && self.literal),
            ("--eta auto", !strict && self.eta == Some(Eta::Automatic)),
            ("--tolerance", !strict && self.tolerance.is_some()),
            ("--solver sweeps", !strict && sweeps),
        ];
        let Some((option, _)) = given.into_iter().find(|&(_, wrong)| wrong) else { return Ok(()) };
        let name = method.name();
        Err(Failure::usage(match option {
            "--eta" | "--iterations" => {
                format!("{option} was given, but --method exact does not relax; leave it out")
            }
            "--literal" => {
                format!("--literal was given, but is only for --method fixed-prediction; leave it out for {name}")
            }
            "--eta auto" => {
                format!("--eta auto was given, but is only for --method strict; give {name} a number, 0.1 is usual")
            }
            _ => format!("{option} was given, but is only for --method strict; leave it out for {name}"),
        }))
    }

    /// A method with these settings, and the options of its session; an automatic step is chosen by so many
    /// products.
    pub fn with(self, method: MethodName, products: usize) -> Result<(Method, Options), Failure> {
        let strict = method == MethodName::Strict;
        // Where steps are automatic, strict does not look at eta, and fixed-prediction beside it has the usual one.
        let (eta, step, etas) = match self.eta() {
            Eta::Number(eta) => (eta, StepSize::Given, None),
            Eta::PerLayer(etas) => (etas[0], StepSize::Given, Some(etas).filter(|_| method != MethodName::Exact)),
            Eta::Automatic if strict => (DEFAULT_ETA, StepSize::Automatic { products }, None),
            Eta::Automatic => (DEFAULT_ETA, StepSize::Given, None),
        };
        let iterations = self.iterations(method);
        let options = Options {
            layout: self.layout.choice(),
            convolution: self.convolution.algorithm(),
            literal: self.literal && method == MethodName::FixedPrediction,
            step,
            etas,
            tolerance: self.tolerance.filter(|_| strict),
            solver: if strict && self.solver == SolverName::Sweeps { Solver::Sweeps } else { Solver::Steps },
            ..Options::default()
        };
        let method = match method {
            MethodName::Exact => Method::Exact,
            MethodName::FixedPrediction => Method::FixedPrediction { eta, iterations },
            MethodName::Strict => Method::Strict { eta, iterations },
        };
        method.validate()?;
        options.validate(method)?;
        Ok((method, options))
    }
}

/// The step size that a method was given, if it relaxes.
pub fn eta(method: Method, options: &Options) -> Option<Eta> {
    method.relaxation().map(|(eta, _)| match (options.step, options.etas) {
        (StepSize::Given, None) => Eta::Number(eta),
        (StepSize::Given, Some(etas)) => Eta::PerLayer(etas),
        (StepSize::Automatic { .. }, _) => Eta::Automatic,
    })
}

/// Whether every sample finds its own step size or number of iterations.
pub fn adapts(options: &Options) -> bool {
    options.step != StepSize::Given || options.tolerance.is_some() || options.solver == Solver::Sweeps
}

/// A method with all that it was given, as in `strict (0.1, 20, tolerance 0.001)` or `strict (sweeps, 5)`.
pub fn title(method: Method, options: &Options) -> String {
    let name = method.name();
    let Some((eta, (_, iterations))) = eta(method, options).zip(method.relaxation()) else { return name.into() };
    let step = match options.solver {
        Solver::Steps => eta.to_string(),
        Solver::Sweeps => SWEEPS.to_string(),
    };
    let literal = if options.literal { ", literal" } else { "" };
    let tolerance = options.tolerance.map_or(String::new(), |tolerance| format!(", tolerance {tolerance}"));
    format!("{name} ({step}, {iterations}{literal}{tolerance})")
}

/// The settings of a method, as they are told in JSON; null where a method has none.
pub fn settings(method: Method, options: &Options) -> Value {
    let relaxes = method.relaxation().is_some();
    let solver = match options.solver {
        Solver::Steps => "steps",
        Solver::Sweeps => SWEEPS,
    };
    json!({
        "method": method.name(),
        "solver": relaxes.then_some(solver),
        "eta": eta(method, options).filter(|_| options.solver == Solver::Steps).map(Eta::to_json),
        "iterations": method.relaxation().map(|(_, iterations)| iterations),
        "literal": options.literal,
        "tolerance": options.tolerance,
        "on_divergence": matches!(method, Method::Strict { .. }).then_some(match options.on_divergence {
            OnDivergence::Stop => "stop",
            OnDivergence::Skip => "skip",
            OnDivergence::Shrink => "shrink",
        }),
    })
}

/// Says which layers a relaxation does not reach, if there are any.
pub fn warn_of_unreached(method: Method, options: &Options, layers: usize) {
    let unreached = method.unreached(options, layers);
    if let Some((_, iterations)) = method.relaxation().filter(|_| !unreached.is_empty()) {
        let (first, last) = (unreached.start, unreached.end - 1);
        let told = if first == last { format!("layer {first}") } else { format!("layers {first} to {last}") };
        note(&format!(
            "warning: the errors of {} do not come down to {told} in {iterations} iterations, where gradients stay 0; \
             {layers} iterations reach every layer",
            method.name()
        ));
    }
}
