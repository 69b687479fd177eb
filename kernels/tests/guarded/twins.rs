// The tests of the twins but `threads.rs`, included where they are to run on guarded memory.

#[path = "../twins/activation.rs"]
mod activation;

#[path = "../twins/bands.rs"]
mod bands;

#[path = "../twins/common.rs"]
mod common;

#[path = "../twins/conv.rs"]
mod conv;

#[path = "../twins/gemm.rs"]
mod gemm;

#[path = "../twins/local.rs"]
mod local;

#[path = "../twins/loss.rs"]
mod loss;

#[path = "../twins/naive.rs"]
mod naive;

#[path = "../twins/nchw.rs"]
mod nchw;

#[path = "../twins/norm.rs"]
mod norm;

#[path = "../twins/passes.rs"]
mod passes;

#[path = "../twins/pool.rs"]
mod pool;

#[path = "../twins/refused.rs"]
mod refused;

#[path = "../twins/view.rs"]
mod view;
