//! A figure of panels in rows, with one legend for those that share it.

use super::colour::{BLACK, GREY};
use super::curve::Look;
use super::panel::Panel;
use super::scene::{Anchor, Scene};
use super::text;

const WIDTH: f32 = 960.0;
/// Height of a row of panels, by how many panels are in it.
const WIDE: f32 = 270.0;
const NARROW: f32 = 230.0;
/// The most panels in a row that are wide.
const FEW: usize = 2;
/// Left of titles and legends.
const EDGE: f32 = 14.0;

const TITLE: f32 = 15.0;
const SETTINGS: f32 = 10.5;
const LEGEND: f32 = 10.5;
/// A legend's line, and the gap after its name.
const SAMPLE: f32 = 26.0;
const GAP: f32 = 20.0;
const LINE: f32 = 18.0;

/// Panels under a title.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    pub title: String,
    /// What it was made with, below the title.
    pub settings: String,
    pub panels: Vec<Panel>,
    /// How many panels are in a row.
    pub columns: usize,
}

impl Figure {
    pub fn scene(&self) -> Scene {
        let columns = self.columns.max(1);
        let rows: Vec<&[Panel]> = self.panels.chunks(columns).collect();
        let height = if columns <= FEW { WIDE } else { NARROW };
        let size = (WIDTH / columns as f32, height);
        let mut scene = Scene { title: self.title.clone(), width: WIDTH, ..Scene::default() };
        let mut y = heading(&mut scene, &self.title, &self.settings, WIDTH);
        let shared = self.panels.iter().all(|panel| same(panel, &self.panels[0]));
        for (i, row) in rows.iter().enumerate() {
            let alike = row.iter().all(|panel| same(panel, &row[0]));
            if alike && (i == 0 || !shared) {
                y = legend(&mut scene, &row[0], (EDGE, y), WIDTH - 2.0 * EDGE);
            }
            let own =
                |panel: &Panel, scene: &mut Scene, x: f32| legend(scene, panel, (x + EDGE, y), size.0 - 2.0 * EDGE);
            let mut below = y;
            if !alike {
                for (j, panel) in row.iter().enumerate() {
                    below = below.max(own(panel, &mut scene, j as f32 * size.0));
                }
            }
            y = below;
            for (j, panel) in row.iter().enumerate() {
                panel.draw(&mut scene, (j as f32 * size.0, y), size);
            }
            y += height;
        }
        scene.height = (y + 4.0).ceil();
        scene
    }
}

/// Whether two panels have the same legend.
fn same(a: &Panel, b: &Panel) -> bool {
    let entries = |panel: &Panel| -> Vec<(String, [u8; 3], usize, Look)> {
        panel.curves.iter().map(|curve| (curve.name.clone(), curve.colour, curve.style, curve.look)).collect()
    };
    entries(a) == entries(b)
}

/// Title and settings at the top of a scene, larger in a wide one, which readers see made smaller; where the rest
/// begins.
pub fn heading(scene: &mut Scene, title: &str, settings: &str, width: f32) -> f32 {
    let larger = (width / WIDTH).max(1.0);
    let mut y = 8.0;
    for (text, size, colour) in [(title, larger * TITLE, BLACK), (settings, larger * SETTINGS, GREY)] {
        for line in text::lines(text, size, width - 2.0 * EDGE) {
            y += 1.35 * size;
            scene.text(&line, size, Anchor::Start, (EDGE, y), colour);
        }
    }
    (y + 10.0).ceil()
}

/// What the curves of a panel are called, in lines of at most this width; where the rest begins. A curve alone is
/// what the title says.
fn legend(scene: &mut Scene, panel: &Panel, (left, top): (f32, f32), width: f32) -> f32 {
    if panel.curves.len() < 2 {
        return top;
    }
    let (mut x, mut y) = (left, top + LINE / 2.0);
    for curve in &panel.curves {
        let wide = SAMPLE + 6.0 + text::width(&curve.name, LEGEND);
        if x > left && x + wide > left + width {
            (x, y) = (left, y + LINE);
        }
        curve.sample(scene, (x, y), SAMPLE);
        scene.text(&curve.name, LEGEND, Anchor::Start, (x + SAMPLE + 6.0, y + 3.8), BLACK);
        x += wide + GAP;
    }
    y + LINE / 2.0 + 2.0
}
