//! Horizontal bars.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::IntoTextStyle;

use super::{COLOURS, Drawing, Drawn, FONT, save};
use crate::console::Failure;

const WIDTH: u32 = 800;
/// Height of the title, and of a bar with the space around it.
const HEAD: u32 = 56;
const BAR: u32 = 44;
/// Room for names on the left and for values on the right.
const NAMES: i32 = 290;
const VALUES: i32 = 120;

/// A bar of this length.
pub struct Bar {
    pub name: String,
    pub value: f64,
}

/// Writes `<path>.svg` and `<path>.png` with a bar for each, its value in `unit` beside it.
pub fn write_bars(path: &Path, title: &str, unit: &str, bars: &[Bar]) -> Result<(), Failure> {
    save(path, &Bars { title, unit, bars })
}

struct Bars<'a> {
    title: &'a str,
    unit: &'a str,
    bars: &'a [Bar],
}

impl Drawing for Bars<'_> {
    fn size(&self) -> (u32, u32) {
        (WIDTH, HEAD + BAR * self.bars.len() as u32 + 12)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
        let label = (FONT, 15).into_text_style(area);
        area.draw_text(self.title, &(FONT, 20).into_text_style(area), (16, 16))?;
        let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        for (bar, i) in self.bars.iter().zip(0..) {
            let top = (HEAD + BAR * i) as i32;
            let length = f64::from(WIDTH as i32 - NAMES - VALUES) * bar.value / longest;
            let end = NAMES + length.round() as i32;
            area.draw_text(&bar.name, &label, (16, top + 10))?;
            area.draw(&Rectangle::new([(NAMES, top + 4), (end, top + BAR as i32 - 8)], COLOURS[0].filled()))?;
            area.draw_text(&format!("{:.2} {}", bar.value, self.unit), &label, (end + 8, top + 10))?;
        }
        Ok(())
    }
}
