//! The SIMD levels that a test runs at.

use predictive_coding::Level;

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
