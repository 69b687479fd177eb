//! The kernels of the `predictive-coding` library: products, convolutions, pooling, activations and
//! losses on the CPU, hand-vectorised at three levels that are chosen at run time.
//!
//! Tensors of a batch lie with one image in every lane of a vector,
//! `[channels][height][width][LANES]`, LANES being 16 with AVX-512, 8 with AVX2 and 4 elsewhere
//! ([`lanes`]). Matrices are views with any strides.
//!
//! Every function is safe, checks its lengths and panics with both numbers if they do not fit.
//! None allocates while it computes: plans, packed operands and scratch are made beforehand. Results
//! are the same to the last bit on any number of threads. NaN and infinity travel like any other value.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("sizes of tensors are reckoned in 64 bits, expected a target whose pointers are as wide");

mod activation;
mod blocking;
mod buffer;
mod combine;
mod conv;
pub mod elementwise;
mod gemm;
mod layout;
mod level;
mod local;
pub mod loss;
mod math;
mod microkernel;
mod pack;
mod parallel;
mod peak;
pub mod reduce;
pub mod reference;
mod simd;
mod view;

pub use activation::Activation;
pub use buffer::Buffer;
pub use combine::Combine;
pub use conv::{ConvShape, LaneConv, NchwConv};
pub use gemm::{GemmScratch, Lhs, PackedLhs, gemm, gemm_activated};
pub use layout::{lanes_to_rows, lanes_to_strided_rows, rows_to_lanes};
pub use level::{LEVEL_VARIABLE, Level, LevelError};
pub use local::{Local, Relaxing};
pub use parallel::concurrency;
pub use peak::fma_peak;
pub use view::{MatMut, MatRef};

/// Elements of a vector at a level: the number of images that a tensor of lanes holds.
pub fn lanes(level: Level) -> usize {
    simd::lanes(level)
}
