//! SIMD kernels.

mod level;

pub use level::{LEVEL_VARIABLE, Level, LevelError};
