//! The unit tests of what plans are made of. Their sources need no kernels, which as a part of the library's own unit
//! tests would be compiled a second time, for minutes.

#![allow(dead_code)]

#[path = "../../src/blocking.rs"]
mod blocking;
mod conv;
