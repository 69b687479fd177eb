//! Every kernel at every level of this machine against its naive twin.

mod activation;
mod bands;
mod common;
mod conv;
mod gemm;
mod local;
mod loss;
mod naive;
mod nchw;
mod passes;
mod pool;
mod refused;
mod view;
