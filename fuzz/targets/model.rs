#![no_main]

use libfuzzer_sys::fuzz_target;
use predictive_coding_reference::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

fuzz_target!(|bytes: &[u8]| predictive_coding_fuzz::model(&ALLOCATOR, bytes));
