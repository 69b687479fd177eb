//! Predictive coding networks on the CPU.

mod error;
mod loss;
mod method;
mod network;
mod op;
mod optimizer;
mod parameters;

pub use error::{Divergence, Error, Result};
pub use loss::{Loss, Targets};
pub use method::Method;
pub use network::{Layer, Network};
pub use op::{AvgPool2d, Conv2d, Linear, MaxPool2d, Op};
pub use optimizer::{Adam, AdamOptions, AdamW, Optimizer, Sgd, SgdOptions};
pub use parameters::{ParameterSpec, Parameters, Role};
mod session;
pub use predictive_coding_kernels::Level;
pub use session::{Quantity, Session, Start};
