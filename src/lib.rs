//! Predictive coding networks on the CPU.

mod error;
mod layer;
mod loss;
mod method;
mod network;
mod op;
mod optimizer;
mod output;
mod parameters;
mod plan;
mod relaxation;
mod session;
mod state;

#[cfg(feature = "files")]
mod batch;
#[cfg(feature = "files")]
mod checkpoint;
#[cfg(feature = "files")]
pub mod data;
#[cfg(feature = "files")]
mod files;
#[cfg(feature = "files")]
mod model;
#[cfg(feature = "files")]
mod tensors;
#[cfg(feature = "files")]
mod weights;

pub use error::{Divergence, Error, Result};
pub use loss::{Loss, Targets};
pub use method::Method;
pub use network::{Layer, Network};
pub use op::{AvgPool2d, Conv2d, Linear, MaxPool2d, Op};
pub use optimizer::{Adam, AdamOptions, AdamW, Optimizer, Sgd, SgdOptions};
pub use parameters::{ParameterSpec, Parameters, Role};
pub use predictive_coding_kernels::Level;
pub use session::{Quantity, Session, Start};

#[cfg(feature = "files")]
pub use batch::{BatchFile, BatchTargets, StartFile};
#[cfg(feature = "files")]
pub use checkpoint::{Progress, Record, RecordKind, Settings, load_checkpoint, save_checkpoint};
#[cfg(feature = "files")]
pub use data::{Batch, Dataset};
#[cfg(feature = "files")]
pub use files::write_atomically;
#[cfg(feature = "files")]
pub use tensors::write_tensors;
