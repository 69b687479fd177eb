//! Sheets of pictures: maps of a quantity over pixels, and images.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::IntoTextStyle;

use super::{Drawing, Drawn, FONT, Picture, save};
use crate::console::Failure;

/// The side of the square that a picture is enlarged to, by whole numbers.
const SIDE: usize = 224;
const GAP: usize = 12;
/// Height of the sheet's title, and of that of a picture.
const TITLE: usize = 44;
const CAPTION: usize = 24;

/// A picture with what it shows: pixels `[height][width][3]`.
pub struct Map {
    pub caption: String,
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u8>,
}

/// Rows of pictures.
pub struct Sheet {
    pub title: String,
    pub rows: Vec<Vec<Map>>,
}

/// The 2-norm over the channels at each pixel, of `[channels][pixels]`.
pub fn channel_norms(values: &[f32], pixels: usize) -> Vec<f64> {
    let mut squares = vec![0.0; pixels];
    for channel in values.chunks_exact(pixels) {
        squares.iter_mut().zip(channel).for_each(|(sum, &value)| *sum += f64::from(value).powi(2));
    }
    squares.into_iter().map(f64::sqrt).collect()
}

/// The colours of values from 0 to the largest, dark to light; as one that is not finite, white.
pub fn heat(values: &[f64]) -> Vec<u8> {
    let largest = values.iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let colour = |value: &f64| match value.is_finite() {
        true => ViridisRGB.get_color(if largest > 0.0 { value / largest } else { 0.0 }),
        false => WHITE,
    };
    values.iter().map(colour).flat_map(|RGBColor(r, g, b)| [r, g, b]).collect()
}

/// Writes `<path>.svg` and `<path>.png`.
pub fn write_maps(path: &Path, sheet: &Sheet) -> Result<(), Failure> {
    save(path, sheet)
}

impl Map {
    /// How many pixels wide and high each of its own becomes.
    fn scale(&self) -> usize {
        (SIDE / self.width.max(self.height).max(1)).max(1)
    }

    fn picture(&self) -> Picture {
        let scale = self.scale();
        let mut rgb = Vec::with_capacity(self.rgb.len() * scale * scale);
        for row in self.rgb.chunks_exact(3 * self.width) {
            let wide: Vec<u8> =
                row.chunks_exact(3).flat_map(|pixel| std::iter::repeat_n(pixel, scale).flatten().copied()).collect();
            (0..scale).for_each(|_| rgb.extend(&wide));
        }
        Picture { width: (self.width * scale) as u32, height: (self.height * scale) as u32, rgb }
    }
}

impl Sheet {
    /// Width and height of a cell without its caption.
    fn cell(&self) -> (usize, usize) {
        let maps = || self.rows.iter().flatten();
        let side = |size: fn(&Map) -> usize| maps().map(|map| size(map) * map.scale()).max().unwrap_or(0).max(SIDE);
        (side(|map| map.width), side(|map| map.height))
    }

    /// The top left corner of each picture's caption.
    fn places(&self) -> impl Iterator<Item = (&Map, (usize, usize))> {
        let (width, height) = self.cell();
        self.rows.iter().enumerate().flat_map(move |(i, row)| {
            let place = move |j: usize| (GAP + j * (width + GAP), TITLE + i * (CAPTION + height + GAP));
            row.iter().enumerate().map(move |(j, map)| (map, place(j)))
        })
    }
}

impl Drawing for Sheet {
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.cell();
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let size = (GAP + columns * (width + GAP), TITLE + self.rows.len().max(1) * (CAPTION + height + GAP));
        (size.0 as u32, size.1 as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
        area.draw_text(&self.title, &(FONT, 20).into_text_style(area), (GAP as i32, 12))?;
        let caption = (FONT, 14).into_text_style(area);
        for (map, (left, top)) in self.places() {
            area.draw_text(&map.caption, &caption, (left as i32, top as i32 + 4))?;
        }
        Ok(())
    }

    fn pictures(&self) -> Vec<(Picture, (u32, u32))> {
        self.places().map(|(map, (left, top))| (map.picture(), (left as u32, (top + CAPTION) as u32))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_colours_by_hand() {
        assert_eq!(channel_norms(&[3.0, 0.0, 4.0, -2.0], 2), [5.0, 2.0]);
        let colours = heat(&[0.0, 2.0, f64::NAN, 1.0]);
        let [dark, light, nan, middle] =
            [0, 3, 6, 9].map(|i| colours[i..i + 3].iter().map(|&c| u32::from(c)).sum::<u32>());
        assert!(dark < middle && middle < light && light < nan, "{colours:?}");
        assert_eq!(heat(&[0.0, 0.0]), heat(&[0.0]).repeat(2));
    }

    #[test]
    fn pictures_are_enlarged_by_whole_numbers_and_lie_apart() {
        let map = |width: usize, height: usize| Map {
            caption: String::new(),
            width,
            height,
            rgb: vec![7; 3 * width * height],
        };
        let sheet = Sheet { title: String::new(), rows: vec![vec![map(100, 50), map(300, 2)], vec![map(4, 4)]] };
        let pictures = sheet.pictures();
        let sizes: Vec<_> = pictures.iter().map(|(picture, _)| (picture.width, picture.height)).collect();
        assert_eq!(sizes, [(200, 100), (300, 2), (224, 224)]);
        let (width, height) = sheet.size();
        for (i, (picture, (left, top))) in pictures.iter().enumerate() {
            assert!(left + picture.width <= width && top + picture.height <= height);
            assert_eq!(picture.rgb.len(), 3 * (picture.width * picture.height) as usize);
            for (other, (x, y)) in &pictures[..i] {
                assert!(x + other.width <= *left || y + other.height <= *top, "{i} lies over another");
            }
        }
    }
}
