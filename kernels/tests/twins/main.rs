//! Every kernel at every level of this machine against its naive twin; on Unix, on memory with a page before or behind
//! each operand that nobody may touch.

mod activation;
#[cfg(unix)]
mod allocator;
mod bands;
mod common;
mod conv;
mod gemm;
mod local;
mod loss;
mod naive;
mod nchw;
mod norm;
mod passes;
mod pool;
mod refused;
mod threads;
mod view;
