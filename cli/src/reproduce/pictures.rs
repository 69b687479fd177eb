//! Images as VGG-19 takes them, from files or made here.

use std::path::Path;

use crate::console::Failure;
use crate::pixels::Pixels;

/// Mean and standard deviation of ImageNet's channels, by which torchvision's weights want their input.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// A square image with its name.
pub struct Picture {
    pub name: String,
    pub pixels: Pixels,
}

impl Picture {
    /// A JPEG or PNG file, its shorter side resized to 8/7 of `side` (256 for 224), its centre cropped.
    pub fn read(path: &Path, side: usize) -> Result<Self, Failure> {
        let pixels = Pixels::read(path).map_err(Failure::usage)?;
        let [width, height] = pixels.size();
        // A line of pixels would be resized to a wall of them, of which next to nothing is used.
        let pixels = pixels.centre(2 * height, 2 * width);
        let shorter = (side * 8 / 7) as f64;
        let scale = shorter / f64::from(width.min(height));
        let [wide, high] = pixels.size().map(|length| ((f64::from(length) * scale).round() as u32).max(side as u32));
        let resized = pixels.resized(wide, high);
        let resized = resized.map_err(|e| Failure::run(format!("{}: cannot be resized: {e}", path.display())))?;
        let pixels = resized.centre(side as u32, side as u32);
        let name = path.file_stem().map_or("image".into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Picture { name, pixels })
    }

    /// A disc on a slope, and rings: something with edges where no files are given.
    pub fn patterns(side: usize) -> [Self; 2] {
        let draw = |colour: fn(f64, f64) -> [f64; 3]| {
            Pixels::from_fn(side as u32, side as u32, |x, y| {
                let place = |i: u32| (f64::from(i) + 0.5) / side as f64;
                colour(place(x), place(y)).map(|channel| (255.0 * channel.clamp(0.0, 1.0)) as u8)
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
        [("disc", draw(disc)), ("rings", draw(rings))].map(|(name, pixels)| Picture { name: name.into(), pixels })
    }

    /// `[3][side][side]`, normalised.
    pub fn input(&self) -> Vec<f32> {
        let value = |channel: usize| {
            let samples = self.pixels.rgb.iter().skip(channel).step_by(3);
            samples.map(move |&sample| (f32::from(sample) / 255.0 - MEAN[channel]) / DEVIATION[channel])
        };
        (0..3).flat_map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::LONGEST_SIDE;

    #[test]
    fn the_centre_of_a_wide_image_is_taken_and_normalised() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wide.png");
        // Red on the left third, green in the middle, blue on the right.
        let colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let wide = Pixels::from_fn(96, 32, |x, _| colours[x as usize / 32]);
        std::fs::write(&path, wide.png().unwrap()).unwrap();
        let picture = Picture::read(&path, 28).unwrap();
        assert_eq!((picture.name.as_str(), picture.pixels.size()), ("wide", [28, 28]));
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
        let line = Pixels::from_fn(1, LONGEST_SIDE, |_, y| [(y % 251) as u8; 3]);
        std::fs::write(&path, line.png().unwrap()).unwrap();
        let picture = Picture::read(&path, 28).unwrap();
        assert_eq!(picture.pixels.size(), [28, 28]);
        let around = LONGEST_SIDE / 2 - 1..=LONGEST_SIDE / 2;
        let [from, to] = [*around.start(), *around.end()].map(|y| (y % 251) as u8);
        assert!(picture.pixels.rgb.iter().all(|sample| (from..=to).contains(sample)), "{from} to {to}");
    }

    #[test]
    fn images_of_every_kind_become_squares() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/cases/image");
        let paths = std::fs::read_dir(cases).unwrap().map(|entry| entry.unwrap().path());
        let mut read = 0;
        for path in paths.filter(|path| Pixels::read(path).is_ok()) {
            let input = Picture::read(&path, 28).unwrap().input();
            assert!(input.len() == 3 * 28 * 28 && input.iter().all(|value| value.is_finite()), "{}", path.display());
            read += 1;
        }
        assert!(read >= 11, "{read} images were read");
    }
}
