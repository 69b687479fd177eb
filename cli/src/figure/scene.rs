//! What a figure consists of: outlines and pixels, from back to front. Lengths are pixels of 1/96 inch.
//!
//! Letters are outlines too, so that the SVG looks like the PNG whatever fonts a reader has.

use tiny_skia::{Path, PathBuilder, Rect};

use super::colour::Colour;
use super::text;
use crate::pixels::Pixels;

/// How thick a line is, and the lengths of its dashes and gaps in turn; solid without any.
#[derive(Clone, Copy, Debug)]
pub struct Pen {
    pub colour: Colour,
    pub width: f32,
    pub dash: &'static [f32],
}

impl Pen {
    pub fn solid(colour: Colour, width: f32) -> Self {
        Pen { colour, width, dash: &[] }
    }
}

pub enum Shape {
    Stroke { path: Path, pen: Pen },
    Fill { path: Path, colour: Colour },
    Text { path: Path, colour: Colour, text: String },
    Pixels { pixels: Pixels, area: Rect },
}

/// Which point of a text's base line lies at its place.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    Start,
    Middle,
    End,
    /// The middle, of a text that reads upwards.
    Upwards,
}

#[derive(Default)]
pub struct Scene {
    /// The title of the document.
    pub title: String,
    pub width: f32,
    pub height: f32,
    pub shapes: Vec<Shape>,
}

impl Scene {
    pub fn line(&mut self, points: &[(f32, f32)], pen: Pen) {
        let mut path = PathBuilder::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
        }
        if let Some(path) = path.finish() {
            self.shapes.push(Shape::Stroke { path, pen });
        }
    }

    pub fn rectangle(&mut self, (x, y): (f32, f32), (width, height): (f32, f32), colour: Colour) {
        if let Some(rect) = Rect::from_xywh(x, y, width, height) {
            self.shapes.push(Shape::Fill { path: PathBuilder::from_rect(rect), colour });
        }
    }

    pub fn disc(&mut self, (x, y): (f32, f32), radius: f32, colour: Colour) {
        if let Some(path) = PathBuilder::from_circle(x, y, radius) {
            self.shapes.push(Shape::Fill { path, colour });
        }
    }

    pub fn ring(&mut self, (x, y): (f32, f32), radius: f32, pen: Pen) {
        if let Some(path) = PathBuilder::from_circle(x, y, radius) {
            self.shapes.push(Shape::Stroke { path, pen });
        }
    }

    pub fn text(&mut self, text: &str, size: f32, anchor: Anchor, place: (f32, f32), colour: Colour) {
        if let Some(path) = text::outline(text, size, anchor, place) {
            self.shapes.push(Shape::Text { path, colour, text: text.into() });
        }
    }

    pub fn pixels(&mut self, pixels: Pixels, (x, y): (f32, f32), (width, height): (f32, f32)) {
        if let Some(area) = Rect::from_xywh(x, y, width, height) {
            self.shapes.push(Shape::Pixels { pixels, area });
        }
    }
}
