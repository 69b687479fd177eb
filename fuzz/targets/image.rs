#![no_main]

// The reader of images belongs to the program, which is no library.
#[path = "../../cli/src/console.rs"]
#[expect(dead_code, reason = "the program prints")]
mod console;
#[path = "../../cli/src/reproduce/pictures.rs"]
#[expect(dead_code, reason = "the program asks for more of a picture")]
mod pictures;

use libfuzzer_sys::fuzz_target;
use predictive_coding_reference::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// The side of the image that is made.
const SIDE: usize = 28;

fuzz_target!(|bytes: &[u8]| {
    let file = predictive_coding_fuzz::File::new("image", bytes);
    // Decoded pixels, as they are, as RGB, and while they are resized.
    predictive_coding_fuzz::bounded(&ALLOCATOR, 4 * ((16 << 20) + 64 * bytes.len()), || {
        if let Ok(picture) = pictures::Picture::read(&file.path(), SIDE) {
            assert_eq!(picture.input().len(), 3 * SIDE * SIDE);
            assert!(picture.input().iter().all(|value| value.is_finite()));
        }
    });
});
