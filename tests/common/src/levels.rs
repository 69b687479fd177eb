//! The SIMD levels that a test runs at, and the ways to compute a method there.

use predictive_coding::{Level, Method, Options};

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

/// Every way in which a session can compute a method at a level; the usual one first.
pub fn ways(level: Level, method: Method) -> impl Iterator<Item = Options> {
    let literal: &[bool] = match method {
        Method::FixedPrediction { .. } => &[false, true],
        Method::Exact | Method::Strict { .. } => &[false],
    };
    let usual = Options { level: Some(level), ..Options::default() };
    literal.iter().map(move |&literal| Options { literal, ..usual })
}
