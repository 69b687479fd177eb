//! The twins' tests on memory with a page before each operand that nobody may touch.

#![cfg(unix)]

#[path = "../guarded/allocator.rs"]
mod allocator;

use allocator::{Guard, Guarded};

const GUARD: Guard = Guard::Before;

#[global_allocator]
static ALLOCATOR: Guarded = Guarded(GUARD);

include!("../guarded/twins.rs");
