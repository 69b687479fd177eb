//! The twins' tests on memory with a page behind each operand that nobody may touch.

#![cfg(unix)]

#[path = "../guarded/allocator.rs"]
mod allocator;

use allocator::{Guard, Guarded};

const GUARD: Guard = Guard::Behind;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded(GUARD);

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

#[path = "../twins/nchw.rs"]
mod nchw;

#[path = "../twins/passes.rs"]
mod passes;

#[path = "../twins/pool.rs"]
mod pool;
