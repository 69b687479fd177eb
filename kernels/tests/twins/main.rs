//! Every kernel at every level of this machine against its naive twin.

mod common;
mod gemm;
