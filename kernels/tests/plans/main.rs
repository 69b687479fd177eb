//! The unit tests of what plans are made of. Their sources need no kernels, which as a part of the library's own unit
//! tests would be compiled a second time, for minutes.

#![expect(dead_code, reason = "what the tests do not call is for the kernels")]

#[path = "../../src/blocking.rs"]
mod blocking;
mod conv;
