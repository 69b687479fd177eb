//! Predictive coding networks on the CPU.

#[cfg(feature = "files")]
mod batch;
mod error;
#[cfg(feature = "files")]
mod files;
mod loss;
mod method;
#[cfg(feature = "files")]
mod model;
mod network;
mod op;
mod optimizer;
mod parameters;

#[cfg(feature = "files")]
pub use batch::{BatchFile, BatchTargets, StartFile};
pub use error::{Divergence, Error, Result};
#[cfg(feature = "files")]
pub use files::write_atomically;
pub use loss::{Loss, Targets};
pub use method::Method;
pub use network::{Layer, Network};
pub use op::{AvgPool2d, Conv2d, Linear, MaxPool2d, Op};
pub use optimizer::{Adam, AdamOptions, AdamW, Optimizer, Sgd, SgdOptions};
pub use parameters::{ParameterSpec, Parameters, Role};
mod session;
#[cfg(feature = "files")]
mod tensors;
#[cfg(feature = "files")]
mod weights;
pub use predictive_coding_kernels::Level;
pub use session::{Quantity, Session, Start};
#[cfg(feature = "files")]
pub use tensors::write_tensors;
