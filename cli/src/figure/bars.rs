//! Horizontal bars.

use super::axis::short;
use super::colour::{self, BLACK, GREY};
use super::grid::heading;
use super::scene::{Anchor, Pen, Scene};

const WIDTH: f32 = 800.0;
/// Room for names on the left and for values on the right.
const NAMES: f32 = 250.0;
const VALUES: f32 = 90.0;
/// From bar to bar, and the height of one.
const STEP: f32 = 30.0;
const BAR: f32 = 18.0;
const LABEL: f32 = 11.0;

/// A bar of this length.
pub struct Bar {
    pub name: String,
    pub value: f64,
}

/// A bar for each, its value in `unit` beside it.
pub struct Bars {
    pub title: String,
    pub settings: String,
    pub unit: &'static str,
    pub bars: Vec<Bar>,
}

impl Bars {
    pub fn scene(&self) -> Scene {
        let mut scene = Scene { title: self.title.clone(), width: WIDTH, ..Scene::default() };
        let top = heading(&mut scene, &self.title, &self.settings, WIDTH);
        let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        let mut middle = top + STEP / 2.0;
        for bar in &self.bars {
            let length = (WIDTH - NAMES - VALUES) * (bar.value / longest) as f32;
            scene.text(&bar.name, LABEL, Anchor::End, (NAMES - 8.0, middle + 4.0), BLACK);
            scene.rectangle((NAMES, middle - BAR / 2.0), (length, BAR), colour::of(0, 1));
            let value = format!("{} {}", short(bar.value), self.unit);
            scene.text(&value, LABEL, Anchor::Start, (NAMES + length + 8.0, middle + 4.0), BLACK);
            middle += STEP;
        }
        scene.height = (middle - STEP / 2.0 + 8.0).ceil();
        scene.line(&[(NAMES, top), (NAMES, scene.height - 8.0)], Pen::solid(GREY, 0.8));
        scene
    }
}
