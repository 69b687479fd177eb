//! Every kernel at every level of this machine against its naive twin; on Unix, on memory with a page behind each
//! operand that nobody may touch.

#[cfg(unix)]
#[path = "../guarded/allocator.rs"]
mod allocator;

#[cfg(unix)]
const GUARD: allocator::Guard = allocator::Guard::Behind;

#[cfg(unix)]
#[global_allocator]
static ALLOCATOR: allocator::Guarded = allocator::Guarded(GUARD);

mod activation;
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
