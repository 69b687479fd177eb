//! SIMD levels: which instructions the kernels use, chosen at run time.

use std::fmt;
use std::str::FromStr;

use crate::names::NameError;

/// The environment variable that forces a level, in [`Level::from_environment`].
pub const LEVEL_VARIABLE: &str = "PREDICTIVE_CODING_LEVEL";

/// A set of vector instructions. A value exists only if the CPU has them, so holding one is the
/// proof that the kernels of that level may run.
///
/// ```
/// use predictive_coding_kernels::Level;
///
/// let widest = Level::detect();
/// assert_eq!(widest.name().parse(), Ok(widest));
/// assert!(Level::available().contains(&Level::PORTABLE));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Level(Isa);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What the compiler's target baseline has: SSE2 on x86-64, NEON on Arm.
    pub const PORTABLE: Level = Level(Isa::Portable);

    /// The widest level that this CPU has.
    pub fn detect() -> Level {
        Level::available()[0]
    }

    /// Every level that this CPU has, widest first.
    pub fn available() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        {
            const ALL: [Level; 3] = [Level(Isa::Avx512), Level(Isa::Avx2), Level(Isa::Portable)];
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2 && is_x86_feature_detected!("avx512f");
            &ALL[2 - usize::from(avx2) - usize::from(avx512)..]
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Level::PORTABLE]
    }

    /// The level that `PREDICTIVE_CODING_LEVEL` names, or else the widest that this CPU has.
    ///
    /// # Errors
    /// If it names no level, or one that this CPU does not have.
    pub fn from_environment() -> Result<Level, NameError> {
        match std::env::var(LEVEL_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                name.parse().map_err(|NameError(message)| NameError(format!("{LEVEL_VARIABLE}: {message}")))
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(NameError(format!("{LEVEL_VARIABLE} is not text, expected portable, avx2 or avx512")))
            }
            _ => Ok(Level::detect()),
        }
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
        }
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }
}

impl FromStr for Level {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Level, NameError> {
        let available = Level::available();
        let names = || available.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ");
        match available.iter().find(|level| level.name() == name) {
            Some(level) => Ok(*level),
            None if matches!(name, "avx2" | "avx512") => {
                Err(NameError(format!("this CPU does not have the level {name}; it has {}", names())))
            }
            None => Err(NameError(format!("unknown level {name:?}, expected one of {}", names()))),
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
