//! The SIMD levels, layouts and algorithms that a test runs in, and the ways to compute a method there.

use std::fmt;

use predictive_coding::{Algorithm, LayoutChoice, Level, Method, Network, Options, Session};

/// Every level of this machine, or the one that `PREDICTIVE_CODING_LEVEL` names; prints the others.
///
/// # Panics
/// If the machine lacks the level that is named.
pub fn levels() -> Vec<Level> {
    let levels = match std::env::var_os("PREDICTIVE_CODING_LEVEL") {
        Some(name) if !name.is_empty() => vec![Level::from_environment().unwrap_or_else(|error| panic!("{error}"))],
        _ => Level::available().to_vec(),
    };
    for name in ["avx512", "avx2", "portable"] {
        if !levels.iter().any(|level| level.name() == name) {
            println!("level {name} skipped");
        }
    }
    levels
}

/// A level, a layout and an algorithm to compute in.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// The SIMD level.
    pub level: Level,
    /// What lies across the lanes.
    pub layout: LayoutChoice,
    /// How convolutions are computed.
    pub convolution: Algorithm,
}

impl Form {
    /// A session's options, otherwise the usual ones.
    pub fn options(self) -> Options {
        Options::default().with_level(Some(self.level)).with_layout(self.layout).with_convolution(self.convolution)
    }

    /// A session in this form.
    ///
    /// # Panics
    /// If it can not be planned.
    pub fn session(self, network: &Network, batch: usize, method: impl Into<Method>) -> Session {
        Session::new(network, batch, method, self.options()).expect("legal")
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.level, self.layout, self.convolution)
    }
}

/// Both layouts at some levels, each with another algorithm of convolutions.
pub fn forms_of(levels: &[Level]) -> Vec<Form> {
    let pairs = [(LayoutChoice::Images, Algorithm::Direct), (LayoutChoice::Channels, Algorithm::Winograd)];
    let form = |level: Level| pairs.map(|(layout, convolution)| Form { level, layout, convolution });
    levels.iter().flat_map(|&level| form(level)).collect()
}

/// Every form at every level that is tested.
pub fn all_forms() -> Vec<Form> {
    let algorithms = [Algorithm::Auto, Algorithm::Direct, Algorithm::Winograd];
    forms().into_iter().flat_map(|form| algorithms.map(|convolution| Form { convolution, ..form })).collect()
}

/// Both layouts at every level that is tested.
pub fn forms() -> Vec<Form> {
    forms_of(&levels())
}

/// Every way to compute what a method stands for; the usual one first.
pub fn ways(method: &Method) -> Vec<Method> {
    match method {
        Method::FixedPrediction(fixed) => {
            [false, true].map(|literal| fixed.clone().with_literal(literal).into()).to_vec()
        }
        _ => vec![method.clone()],
    }
}
