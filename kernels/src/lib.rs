//! The kernels of the `predictive-coding` library: products, convolutions, pooling, activations and losses on the CPU,
//! vectorised by hand for three SIMD levels. The level is chosen at run time.
//!
//! Matrices are views with any strides ([`MatRef`], [`gemm`]). Images are stored in *tiles*, in one of two [`Layout`]s: one
//! image per lane of a vector, or one channel of an image per lane. A vector has 16 lanes with AVX-512, 8 with AVX2 and 4
//! otherwise ([`lanes`]). [`Conv`] and [`Local`] work on both layouts. [`NchwConv`] takes plain
//! `[batch, channels, height, width]` tensors.
//!
//! Every function is safe, checks its lengths, and panics with both numbers if they do not fit. No function allocates while
//! it computes: plans, packed operands and scratch are made beforehand. Results are bit-identical for any number of threads.
//! NaN and infinity propagate like any other value, except that [`Algorithm::Winograd`] spreads them over neighbouring
//! pixels.
//!
//! ```
//! use predictive_coding_kernels::{Algorithm, Combine, Conv, ConvShape, Layout, Level};
//!
//! // A 3 x 3 convolution of one image of 16 channels, which lie across the lanes.
//! let (level, layout) = (Level::detect(), Layout::Channels(1));
//! let shape = ConvShape {
//!     input: [5, 5],
//!     kernel: [3, 3],
//!     stride: [1, 1],
//!     padding: [1, 1],
//!     dilation: [1, 1],
//!     ..ConvShape::linear(16, 8)
//! };
//! let conv = Conv::new(level, layout, shape, Algorithm::Auto);
//! let weight = vec![0.1; 8 * 16 * 9];
//! let mut packed = vec![0.0; conv.packed_forward_len()];
//! conv.pack_forward(&weight, &mut packed, false);
//! let mut input = vec![0.0; conv.input_len()];
//! layout.load(level, &[1.0; 16 * 25], [16, 25], &mut input);
//! let (mut output, mut scratch) = (vec![0.0; conv.output_len()], vec![0.0; conv.scratch_len()]);
//! conv.forward(&packed, &input, Combine::default(), &mut output, &mut scratch, false);
//! let mut rows = vec![0.0; 8 * 25];
//! layout.store(level, &output, [8, 25], &mut rows, 1, 8 * 25);
//! assert!((rows[12] - 16.0 * 9.0 * 0.1).abs() < 1e-4);
//! ```
//!
//! # Features
//!
//! `rayon` (on by default): products use the threads of the current pool. `ndarray`: conversion between its
//! two-dimensional arrays and matrix views.

#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("sizes of tensors are reckoned in 64 bits, expected a target whose pointers are as wide");

// From what a caller holds, through the plans, down to the instructions.
mod view;
mod layout;
mod combine;
mod buffer;
mod gemm;
mod conv;
mod local;
mod activation;
pub mod loss;
pub mod elementwise;
pub mod reduce;
mod dots;
mod pack;
mod blocking;
mod parallel;
mod leaf;
mod math;
mod simd;
mod level;
mod names;
mod peak;

pub use activation::Activation;
pub use buffer::Buffer;
pub use combine::Combine;
pub use conv::{Algorithm, Choice, Conv, ConvOptions, ConvShape, NchwConv};
pub use gemm::{GemmScratch, Lhs, PackedLhs, gemm};
pub use layout::Layout;
pub use level::{LEVEL_VARIABLE, Level};
pub use local::{Divisor, Local, Relaxing};
pub use names::NameError;
pub use parallel::{Alone, concurrency, pool_threads, run_in_place};
pub use peak::fma_peak;
pub use view::{MatMut, MatRef};

/// Elements of a vector at a level. See [`elementwise::combine`] for an example.
pub fn lanes(level: Level) -> usize {
    simd::lanes(level)
}
