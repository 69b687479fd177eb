//! Predictive coding networks on the CPU.

mod error;
mod layer;
mod loss;
mod method;
mod network;
mod op;
mod output;
mod parameters;
mod plan;
mod relaxation;
mod session;
mod state;

pub use error::{Divergence, Error, Result};
pub use loss::{Loss, Targets};
pub use method::Method;
pub use network::{Layer, Network};
pub use op::{AvgPool2d, Conv2d, Linear, MaxPool2d, Op};
pub use parameters::{ParameterSpec, Parameters, Role};
pub use predictive_coding_kernels::Level;
pub use session::{Quantity, Session, Start};
