//! Every kernel at every level of this machine against its naive twin.

mod activation;
mod common;
mod conv;
mod gemm;
mod loss;
mod nchw;
mod passes;
mod pool;
