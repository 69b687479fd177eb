//! Images as VGG-19 takes them, from files or made here.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::console::Failure;

/// Mean and standard deviation of ImageNet's channels, by which torchvision's weights want their input.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// Images with a longer side than this are refused.
const LONGEST_SIDE: u32 = 1 << 14;
/// How many bytes an image may be in memory: so many, and so many times its file. Photographs are 10 to 40 times
/// theirs.
const UNPACKED_BYTES: u64 = 16 << 20;
const UNPACKED_FACTOR: u64 = 64;

/// A square image with its name.
pub struct Picture {
    pub name: String,
    pub image: RgbImage,
}

impl Picture {
    /// A JPEG or PNG file, its shorter side resized to 8/7 of `side` (256 for 224), its centre cropped.
    pub fn read(path: &Path, side: usize) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::usage(format!("{}: {what}; expected a JPEG or PNG file", path.display()));
        let bytes = std::fs::metadata(path).map_err(|e| wrong(format!("cannot be read: {e}")))?.len();
        let mut reader = image::ImageReader::open(path)
            .and_then(|reader| reader.with_guessed_format())
            .map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let mut limits = image::Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_SIDE), Some(LONGEST_SIDE));
        limits.max_alloc = Some(bytes.saturating_mul(UNPACKED_FACTOR).saturating_add(UNPACKED_BYTES));
        reader.limits(limits);
        let image = reader.decode().map_err(|e| wrong(format!("cannot be decoded: {e}")))?.into_rgb8();
        let image = centre(image);
        let (width, height) = image.dimensions();
        let shorter = (side * 8 / 7) as f64;
        let scale = shorter / f64::from(width.min(height).max(1));
        let [wide, high] = [width, height].map(|length| ((f64::from(length) * scale).round() as u32).max(side as u32));
        let resized = imageops::resize(&image, wide, high, FilterType::Triangle);
        let (left, top) = ((wide - side as u32) / 2, (high - side as u32) / 2);
        let image = imageops::crop_imm(&resized, left, top, side as u32, side as u32).to_image();
        let name = path.file_stem().map_or("image".into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Picture { name, image })
    }

    /// A disc on a slope, and rings: something with edges where no files are given.
    pub fn patterns(side: usize) -> [Self; 2] {
        let draw = |colour: fn(f64, f64) -> [f64; 3]| {
            RgbImage::from_fn(side as u32, side as u32, |x, y| {
                let place = |i: u32| (f64::from(i) + 0.5) / side as f64;
                Rgb(colour(place(x), place(y)).map(|channel| (255.0 * channel.clamp(0.0, 1.0)) as u8))
            })
        };
        let disc = |x: f64, y: f64| {
            let inside = (x - 0.42).hypot(y - 0.55) < 0.27;
            if inside { [0.85, 0.35, 0.2] } else { [0.3 + 0.3 * y, 0.45 + 0.2 * x, 0.6] }
        };
        let rings = |x: f64, y: f64| {
            let wave = 0.5 + 0.5 * (60.0 * (x - 0.65).hypot(y - 0.35)).sin();
            [wave, 0.25 + 0.5 * wave, 1.0 - 0.8 * x]
        };
        [("disc", draw(disc)), ("rings", draw(rings))].map(|(name, image)| Picture { name: name.into(), image })
    }

    /// `[3][side][side]`, normalised.
    pub fn input(&self) -> Vec<f32> {
        let value = |channel: usize| {
            self.image
                .pixels()
                .map(move |pixel| (f32::from(pixel.0[channel]) / 255.0 - MEAN[channel]) / DEVIATION[channel])
        };
        (0..3).flat_map(value).collect()
    }
}

/// Of an image more than twice as long as wide, the part around the centre that is not: a line of pixels would be
/// resized to a wall of them, of which next to nothing is used.
fn centre(image: RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let (wide, high) = (width.min(2 * height), height.min(2 * width));
    match (wide, high) == (width, height) {
        true => image,
        false => imageops::crop_imm(&image, (width - wide) / 2, (height - high) / 2, wide, high).to_image(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_centre_of_a_wide_image_is_taken_and_normalised() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wide.png");
        // Red on the left third, green in the middle, blue on the right.
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        RgbImage::from_fn(96, 32, |x, _| Rgb(colours[x as usize / 32])).save(&path).unwrap();
        let picture = Picture::read(&path, 28).unwrap();
        assert_eq!((picture.name.as_str(), picture.image.dimensions()), ("wide", (28, 28)));
        let input = picture.input();
        for (channel, level) in [0.0, 1.0, 0.0].into_iter().enumerate() {
            let expected = (level - MEAN[channel]) / DEVIATION[channel];
            let plane = &input[channel * 28 * 28..][..28 * 28];
            assert!(plane.iter().all(|value| (value - expected).abs() < 1e-6), "channel {channel}");
        }
    }

    #[test]
    fn a_line_of_pixels_takes_no_more_than_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("line.png");
        RgbImage::from_fn(1, LONGEST_SIDE, |_, y| Rgb([(y % 251) as u8; 3])).save(&path).unwrap();
        let picture = Picture::read(&path, 28).unwrap();
        assert_eq!(picture.image.dimensions(), (28, 28));
        let around = LONGEST_SIDE / 2 - 1..=LONGEST_SIDE / 2;
        let [from, to] = [*around.start(), *around.end()].map(|y| (y % 251) as u8);
        assert!(picture.image.pixels().all(|pixel| (from..=to).contains(&pixel.0[0])), "{from} to {to}");
    }

    #[test]
    fn an_image_far_larger_than_its_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bomb.png");
        RgbImage::new(8192, 8192).save(&path).unwrap();
        let Err(Failure::Usage(message)) = Picture::read(&path, 28) else { panic!("it was read") };
        assert!(message.contains("bomb.png") && message.contains("limit"), "{message}");
    }

    /// Images of every kind, and what was found by fuzzing.
    #[test]
    fn every_case_is_read_or_refused() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/cases/image");
        let mut read = 0;
        for entry in std::fs::read_dir(cases).unwrap() {
            let path = entry.unwrap().path();
            match Picture::read(&path, 28) {
                Ok(picture) => {
                    assert_eq!(picture.image.dimensions(), (28, 28), "{}", path.display());
                    read += 1;
                }
                Err(Failure::Usage(message)) => assert!(message.contains("expected a JPEG or PNG"), "{message}"),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(read >= 11, "{read} images were read");
    }

    #[test]
    fn what_is_no_image_is_refused_in_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text.jpg");
        std::fs::write(&path, "no image").unwrap();
        let Err(Failure::Usage(message)) = Picture::read(&path, 28) else { panic!("it was read") };
        assert!(message.contains("text.jpg") && message.contains("JPEG or PNG"), "{message}");
    }
}
