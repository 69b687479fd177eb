//! What the integration tests share.
//!
//! [`naive`] computes predictive coding as the formulas are written, in f64 and with plain loops; of
//! the library it uses nothing but the descriptions of networks, operations and parameters.

pub mod case;
pub mod compare;
pub mod judge;
pub mod levels;
pub mod memory;
pub mod methods;
pub mod naive;
pub mod operation;
pub mod random;
pub mod real;
