//! Sheets of pictures: maps of a quantity over pixels, and images.

use super::axis::short;
use super::colour::{self, BLACK, Colour, GREY, WHITE};
use super::grid::heading;
use super::raster::SCALE;
use super::scene::{Anchor, Scene};
use crate::pixels::Pixels;

/// The side of the square that a picture is enlarged to; each of its pixels becomes whole ones of a PNG.
const SIDE: usize = 224;
const GAP: f32 = 14.0;
const EDGE: f32 = 14.0;
/// Height of what a picture shows, above it, and of its colour bar with numbers, below.
const CAPTION: f32 = 24.0;
const BELOW: f32 = 34.0;
const BAR: f32 = 9.0;
const TEXT: f32 = 15.0;
const NUMBER: f32 = 13.0;

/// A picture with what it shows.
pub struct Map {
    pub caption: String,
    pub width: usize,
    pub height: usize,
    pub content: Content,
}

pub enum Content {
    /// Colours `[height][width][3]`.
    Image(Vec<u8>),
    /// Values `[height][width]`, from 0, dark, to `largest`, light; white where they are not finite.
    Values { values: Vec<f64>, largest: f64 },
}

/// Rows of pictures under a title.
pub struct Sheet {
    pub title: String,
    pub settings: String,
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

/// The largest of the values that are finite.
pub fn largest<'a>(values: impl IntoIterator<Item = &'a f64>) -> f64 {
    values.into_iter().copied().filter(|value| value.is_finite()).fold(0.0, f64::max)
}

fn heat(values: &[f64], largest: f64) -> Vec<u8> {
    let colour = |value: &f64| -> Colour {
        match value.is_finite() {
            true => colour::map(if largest > 0.0 { value / largest } else { 0.0 }),
            false => WHITE,
        }
    };
    values.iter().flat_map(colour).collect()
}

impl Map {
    /// How many of a PNG's pixels wide and high each of its own becomes.
    fn whole(&self) -> usize {
        ((SCALE * SIDE as f32) as usize / self.width.max(self.height).max(1)).max(1)
    }

    fn size(&self) -> (f32, f32) {
        ((self.width * self.whole()) as f32 / SCALE, (self.height * self.whole()) as f32 / SCALE)
    }

    fn draw(&self, scene: &mut Scene, (left, top): (f32, f32)) {
        let (width, height) = self.size();
        let rgb = match &self.content {
            Content::Image(rgb) => rgb.clone(),
            Content::Values { values, largest } => heat(values, *largest),
        };
        scene.text(&self.caption, TEXT, Anchor::Start, (left, top + CAPTION - 8.0), BLACK);
        let top = top + CAPTION;
        let pixels = Pixels { width: self.width as u32, height: self.height as u32, rgb };
        scene.pixels(enlarged(&pixels, self.whole(), self.whole()), (left, top), (width, height));
        if let Content::Values { largest, .. } = self.content {
            // A picture may be narrower than its numbers.
            let width = width.max(SIDE as f32 / 2.0);
            let shades: Vec<f64> = (0..(SCALE * width) as u32).map(f64::from).collect();
            let bar = Pixels { width: shades.len() as u32, height: 1, rgb: heat(&shades, shades.len() as f64 - 1.0) };
            let below = top + height + 5.0;
            scene.pixels(enlarged(&bar, 1, (SCALE * BAR) as usize), (left, below), (width, BAR));
            let base = below + BAR + NUMBER + 1.0;
            scene.text("0", NUMBER, Anchor::Start, (left, base), GREY);
            scene.text(&short(largest), NUMBER, Anchor::End, (left + width, base), GREY);
        }
    }
}

/// Each pixel repeated, so that a viewer of the SVG has nothing to enlarge and to smooth.
fn enlarged(pixels: &Pixels, wide: usize, high: usize) -> Pixels {
    let row = |row: &[u8]| -> Vec<u8> {
        row.chunks_exact(3).flat_map(|pixel| std::iter::repeat_n(pixel, wide).flatten().copied()).collect()
    };
    let rows = pixels.rgb.chunks_exact(3 * pixels.width as usize);
    Pixels {
        width: pixels.width * wide as u32,
        height: pixels.height * high as u32,
        rgb: rows.flat_map(|pixels| row(pixels).repeat(high)).collect(),
    }
}

impl Sheet {
    pub fn scene(&self) -> Scene {
        let maps = || self.rows.iter().flatten();
        let side = |size: fn((f32, f32)) -> f32| maps().map(|map| size(map.size())).fold(SIDE as f32, f32::max);
        let (width, height) = (side(|size| size.0), side(|size| size.1));
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0).max(1) as f32;
        let wide = 2.0 * EDGE + columns * (width + GAP) - GAP;
        let mut scene = Scene { title: self.title.clone(), width: wide, ..Scene::default() };
        let mut top = heading(&mut scene, &self.title, &self.settings, wide);
        for row in &self.rows {
            let places = (0..).map(|j| (EDGE + j as f32 * (width + GAP), top));
            row.iter().zip(places).for_each(|(map, place)| map.draw(&mut scene, place));
            top += CAPTION + height + BELOW;
        }
        scene.height = (top + 6.0).ceil();
        scene
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::scene::Shape;

    #[test]
    fn norms_and_colours_by_hand() {
        assert_eq!(channel_norms(&[3.0, 0.0, 4.0, -2.0], 2), [5.0, 2.0]);
        assert_eq!(largest(&[0.0, 2.0, f64::NAN, f64::INFINITY]), 2.0);
        let colours = heat(&[0.0, 2.0, f64::NAN, 1.0], 2.0);
        let [dark, light, nan, middle] =
            [0, 3, 6, 9].map(|i| colours[i..i + 3].iter().map(|&c| u32::from(c)).sum::<u32>());
        assert!(dark < middle && middle < light && light < nan, "{colours:?}");
        assert_eq!(heat(&[0.0, 0.0], 0.0), heat(&[0.0], 0.0).repeat(2));
        let two = Pixels { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
        let Pixels { width, height, rgb } = enlarged(&two, 2, 3);
        assert_eq!((width, height, rgb), (4, 3, [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6].repeat(3)));
    }

    #[test]
    fn pictures_are_enlarged_by_whole_numbers_and_lie_apart() {
        let map = |width: usize, height: usize, content| Map { caption: String::new(), width, height, content };
        let image = |width, height| map(width, height, Content::Image(vec![7; 3 * width * height]));
        let values = map(4, 4, Content::Values { values: vec![1.0; 16], largest: 1.0 });
        let rows = vec![vec![image(100, 50), image(300, 2)], vec![values]];
        let scene = Sheet { title: String::new(), settings: String::new(), rows }.scene();
        let areas: Vec<_> = scene
            .shapes
            .iter()
            .filter_map(|shape| match shape {
                Shape::Pixels { area, .. } => Some(area),
                _ => None,
            })
            .collect();
        let sizes: Vec<_> = areas.iter().map(|area| (area.width(), area.height())).collect();
        assert_eq!(sizes, [(200.0, 100.0), (150.0, 1.0), (224.0, 224.0), (224.0, BAR)], "the last is a colour bar");
        for (i, area) in areas.iter().enumerate() {
            assert!(area.right() <= scene.width && area.bottom() <= scene.height);
            for other in &areas[..i] {
                assert!(other.right() <= area.left() || other.bottom() <= area.top(), "{i} lies over another");
            }
        }
    }
}
