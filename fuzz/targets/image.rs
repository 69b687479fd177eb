#![no_main]

// The reader of images belongs to the program, which is no library.
#[path = "../../cli/src/pixels.rs"]
#[expect(dead_code, reason = "the program asks for more of an image")]
mod pixels;

use libfuzzer_sys::fuzz_target;
use predictive_coding_reference::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// The side of the image that is made.
const SIDE: u32 = 28;

fuzz_target!(|bytes: &[u8]| {
    let file = predictive_coding_fuzz::File::new("image", bytes);
    // Decoded pixels, as they are, as RGB, and while they are resized.
    predictive_coding_fuzz::bounded(&ALLOCATOR, 4 * ((16 << 20) + 64 * bytes.len()), || {
        if let Ok(pixels) = pixels::Pixels::read(&file.path()) {
            let [width, height] = pixels.size();
            assert_eq!(pixels.rgb.len(), 3 * width as usize * height as usize);
            let centre = pixels.centre(2 * height, 2 * width);
            let resized = centre.resized(SIDE, SIDE).expect("both sizes have pixels");
            assert_eq!(resized.size(), [SIDE; 2]);
        }
    });
});
