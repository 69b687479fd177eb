//! Predictive coding networks on the CPU, exact in float32.
//!
//! A network is a chain of layers v_l = f_l(v_{l-1}; theta_l). Backpropagation computes the gradient of
//! a loss by passing its derivative backwards through the chain. In predictive coding, each layer has a
//! *belief* v_l and a *prediction error* epsilon_l = f_l(v_{l-1}) - v_l. The beliefs change until the
//! errors balance, and then each parameter is updated from the error next to it. Rosenbaum ("On the
//! relationship between predictive coding and backpropagation", PLoS ONE 17(3), e0266102, 2022) shows when
//! both compute the same gradients. [`Method`] has the three methods.
//!
//! A [`Network`] is described by its [`Op`]s or by a model file. Its [`Parameters`] are one flat buffer. A
//! [`Session`] has everything that a network, a batch size and a method need. It is planned once and
//! allocates nothing afterwards.
//!
//! ```
//! use predictive_coding::{Adam, Linear, Loss, Network, Op, Optimizer, Options, Session, Strict};
//!
//! let layers = vec![vec![Op::Linear(Linear::new(16)), Op::Tanh], vec![Op::Linear(Linear::new(3))]];
//! let network = Network::new(&[4], Loss::CROSS_ENTROPY, layers)?;
//! let mut parameters = network.initialize(1);
//! let mut session = Session::new(&network, 2, Strict::new(0.1, 20), Options::default())?;
//! let mut adam = Adam::new(&parameters, 1e-2);
//! let (x, labels) = ([0.1, -0.5, 0.3, 0.9, 1.0, 0.2, -0.7, 0.4], [0i64, 2]);
//! let first = session.infer(&parameters, &x, &labels[..])?;
//! for _ in 0..50 {
//!     session.infer(&parameters, &x, &labels[..])?;
//!     adam.step(&mut parameters, session.gradients());
//! }
//! assert!(session.infer(&parameters, &x, &labels[..])? < first / 2.0);
//! # Ok::<(), predictive_coding::Error>(())
//! ```
//!
//! Relaxations are computed with differences from the forward pass. Computed as the paper writes it,
//! epsilon is a difference of nearly equal numbers, and in float32 the gradients of the lower layers
//! are rounding noise.

#![forbid(unsafe_code)]
#![deny(clippy::missing_errors_doc, clippy::missing_panics_doc)]

mod affine;
mod error;
mod dropout;
mod finite;
mod init;
mod layout;
mod group;
mod layer;
mod loss;
mod method;
mod names;
mod network;
mod op;
mod optimizer;
mod options;
mod output;
mod parameters;
mod plan;
mod product;
mod ranks;
mod relaxation;
mod session;
mod setters;
mod shares;
mod state;
mod sums;
mod wave;

#[cfg(feature = "ndarray")]
mod arrays;
#[cfg(feature = "files")]
mod batch;
#[cfg(feature = "files")]
mod checkpoint;
#[cfg(feature = "files")]
pub mod data;
#[cfg(feature = "serde")]
mod description;
#[cfg(feature = "files")]
mod files;
#[cfg(feature = "files")]
mod model;
#[cfg(feature = "files")]
mod tensors;
#[cfg(feature = "files")]
mod weights;

pub use error::{Cause, Divergence, Error, Result};
pub use group::{Conditions, Start};
pub use init::Init;
pub use loss::{Loss, LossFunction, Reduction, Targets};
pub use method::{
    ErrorBased, Eta, FixedPrediction, FreeInput, Incremental, Method, Nudge, OnDivergence, Solver, StepSize, Strict,
};
#[cfg(not(feature = "files"))]
#[doc(hidden)]
pub use network::ModelFile;
pub use network::{Branch, Layer, LayerSpec, Network, Scaling};
pub use op::{Approximation, AvgPool2d, Conv2d, ConvTranspose2d, Linear, MaxPool2d, Norm, Op, Padding};
pub use optimizer::{Adam, AdamOptions, AdamW, LearningRate, Optimizer, Schedule, Sgd, SgdOptions};
pub use options::{LayoutChoice, Options, StopFlag};
pub use parameters::{ParameterSpec, Parameters, ParametersView, Role};
pub use predictive_coding_kernels::{Algorithm, Alone, Choice, Layout, Level};
pub use ranks::{Arrival, Exchange, Ranks};
pub use session::{Quantity, Session, Traced};
pub use state::Descending;

#[cfg(feature = "files")]
pub use batch::{BatchFile, BatchTargets, StartFile};
#[cfg(feature = "files")]
pub use checkpoint::{
    Progress, Record, RecordKind, Settings, load_checkpoint, load_checkpoint_overriding, save_checkpoint,
};
#[cfg(feature = "files")]
pub use data::{Batch, Dataset};
#[cfg(feature = "files")]
pub use files::write_atomically;
#[cfg(feature = "files")]
pub use tensors::write_tensors;

/// The example of the README, so that it is compiled.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The example of the page for users of PyTorch, so that it is compiled.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../docs/pytorch.md")]
struct PyTorch;
