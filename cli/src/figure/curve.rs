//! Curves: their points in a panel, and how they are told apart.

use super::colour::{Colour, WHITE, pale};
use super::scene::{Pen, Scene};
use super::smooth::smooth;

/// The dashes of curves, in the order in which they are drawn over each other: through the gaps of one the curves
/// behind it are seen.
const DASHES: [&[f32]; 6] = [&[], &[6.0, 3.0], &[2.0, 2.0], &[9.0, 2.0, 2.0, 2.0], &[4.0, 4.0], &[1.0, 3.0]];

/// Width of a line, and of the pale line behind a smoothed one.
const LINE: f32 = 1.4;
const RAW: f32 = 0.7;

/// Distance between the lines of zeros, of which each curve has one.
pub const LANE: f32 = 4.0;

/// How the points of a curve are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Look {
    /// Joined by a line.
    #[default]
    Line,
    /// Pale, with a smoothed line over them.
    Smoothed,
    /// As marks that nothing joins.
    Marks,
}

/// Named points.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    pub name: String,
    pub colour: Colour,
    /// Which dash or mark tells it from others.
    pub style: usize,
    pub look: Look,
    pub points: Vec<(f64, f64)>,
}

/// Points in a scene: runs of neighbours that are drawn as one, and runs of those that are zero on a logarithmic axis.
#[derive(Default)]
pub struct Placed {
    pub runs: Vec<Vec<(f32, f32)>>,
    pub zeros: Vec<Vec<(f32, f32)>>,
}

impl Curve {
    fn pen(&self) -> Pen {
        Pen { colour: self.colour, width: LINE, dash: DASHES[self.style % DASHES.len()] }
    }

    /// The raw points behind a smoothed line.
    pub fn draw_behind(&self, scene: &mut Scene, placed: &Placed) {
        if self.look == Look::Smoothed {
            for run in placed.runs.iter().filter(|run| smooth(run).is_some()) {
                scene.line(run, Pen::solid(pale(self.colour), RAW));
            }
        }
    }

    pub fn draw(&self, scene: &mut Scene, placed: &Placed) {
        for run in &placed.runs {
            match self.look {
                Look::Marks => run.iter().for_each(|&point| self.mark(scene, point)),
                // A point alone would be nothing as a line.
                _ if run.len() == 1 => scene.disc(run[0], LINE, self.colour),
                Look::Line => scene.line(run, self.pen()),
                Look::Smoothed => scene.line(smooth(run).as_ref().unwrap_or(run), self.pen()),
            }
        }
        for run in &placed.zeros {
            match (self.look, &run[..]) {
                (Look::Marks, _) => run.iter().for_each(|&point| self.mark(scene, point)),
                (_, &[point]) => scene.disc(point, LINE, self.colour),
                _ => scene.line(run, Pen::solid(self.colour, LINE)),
            }
        }
    }

    /// Marks of different styles are seen though one lies on another.
    fn mark(&self, scene: &mut Scene, (x, y): (f32, f32)) {
        let pen = Pen::solid(self.colour, LINE);
        match self.style % 4 {
            0 => {
                scene.disc((x, y), 3.6, WHITE);
                scene.ring((x, y), 3.6, pen);
            }
            1 => scene.disc((x, y), 2.2, self.colour),
            2 => {
                scene.line(&[(x - 3.5, y - 3.5), (x + 3.5, y + 3.5)], pen);
                scene.line(&[(x - 3.5, y + 3.5), (x + 3.5, y - 3.5)], pen);
            }
            _ => scene.line(&[(x, y - 5.0), (x + 5.0, y), (x, y + 5.0), (x - 5.0, y), (x, y - 5.0)], pen),
        }
    }

    /// How a legend shows it, in a strip of this width.
    pub fn sample(&self, scene: &mut Scene, (x, y): (f32, f32), width: f32) {
        match self.look {
            Look::Marks => self.mark(scene, (x + width / 2.0, y)),
            look => {
                if look == Look::Smoothed {
                    scene.line(&[(x, y), (x + width, y)], Pen::solid(pale(self.colour), 5.0));
                }
                scene.line(&[(x, y), (x + width, y)], self.pen());
            }
        }
    }
}
