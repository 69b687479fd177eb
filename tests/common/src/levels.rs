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
        Options { level: Some(self.level), layout: self.layout, convolution: self.convolution, ..Options::default() }
    }

    /// A session in this form.
    ///
    /// # Panics
    /// If it can not be planned.
    pub fn session(self, network: &Network, batch: usize, method: Method) -> Session {
        Session::with_options(network, batch, method, self.options()).expect("legal")
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

/// Every way in which a session can compute a method in a form; the usual one first.
pub fn ways(form: Form, method: Method) -> impl Iterator<Item = Options> {
    let literal: &[bool] = match method {
        Method::FixedPrediction { .. } => &[false, true],
        Method::Exact | Method::Strict { .. } => &[false],
    };
    literal.iter().map(move |&literal| Options { literal, ..form.options() })
}
