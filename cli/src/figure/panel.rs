//! A panel: curves over one pair of axes.

use super::axis::{Axis, Scale};
use super::colour::{BLACK, GREY, GRID};
use super::curve::{Curve, LANE, Placed};
use super::scene::{Anchor, Pen, Scene};

/// What is larger, or on a logarithmic axis smaller than its inverse, is left out as if it were not finite.
const LARGEST: f64 = 1e100;

/// A logarithmic axis needs this span to have labels enough.
const DECADE: f64 = 10.0;

/// Room for labels around the axes: left, right, above and below.
const MARGIN: [f32; 4] = [58.0, 14.0, 24.0, 38.0];

/// Room for a label along its axis.
const X_LABEL: f32 = 42.0;
const Y_LABEL: f32 = 24.0;

const TITLE: f32 = 12.0;
const LABEL: f32 = 10.0;

#[derive(Clone, Debug, Default)]
pub struct Panel {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Of the horizontal axis, which counts something: ticks are at whole numbers.
    pub x_scale: Scale,
    /// Of the vertical axis. It is linear in any case if the values span less than a decade; zeros lie below a
    /// logarithmic one.
    pub y_scale: Scale,
    /// Whether the horizontal axis counts categories, which are apart.
    pub categories: bool,
    /// Where the horizontal axis ends; with the points, if nowhere.
    pub x_end: Option<f64>,
    /// Curves end where they rise above this.
    pub highest: Option<f64>,
    /// The vertical axis reaches at least over this.
    pub reach: Option<(f64, f64)>,
    /// From the back to the front.
    pub curves: Vec<Curve>,
}

/// Where the axes of a panel lie: pixels of the left, right, upper and lower end, and of the strip of zeros.
struct Frame {
    x: Axis,
    y: Axis,
    left: f32,
    right: f32,
    top: f32,
    bottom: f32,
    /// The height of the strip for zeros, if there are any.
    strip: f32,
}

impl Panel {
    /// Draws it into a part of a scene.
    pub fn draw(&self, scene: &mut Scene, (left, top): (f32, f32), (width, height): (f32, f32)) {
        let frame = self.frame((left, top), (width, height));
        scene.text(&self.title, TITLE, Anchor::Start, (frame.left, top + 15.0), BLACK);
        frame.draw(scene);
        let middle = ((frame.left + frame.right) / 2.0, (frame.top + frame.bottom) / 2.0);
        scene.text(&self.x_label, LABEL, Anchor::Middle, (middle.0, frame.bottom + 32.0), BLACK);
        scene.text(&self.y_label, LABEL, Anchor::Upwards, (left + 13.0, middle.1), BLACK);
        let lanes: Vec<Option<usize>> = self.lanes();
        let placed: Vec<Placed> =
            self.curves.iter().zip(lanes).map(|(curve, lane)| self.place(curve, &frame, lane)).collect();
        let both = || self.curves.iter().zip(&placed);
        both().for_each(|(curve, placed)| curve.draw_behind(scene, placed));
        both().for_each(|(curve, placed)| curve.draw(scene, placed));
    }

    /// The points of a curve that are drawn.
    fn points<'a>(&'a self, curve: &'a Curve) -> impl Iterator<Item = (f64, f64)> + 'a {
        let below = |&(_, y): &(f64, f64)| self.highest.is_none_or(|highest| y.is_nan() || y <= highest);
        curve.points.iter().copied().take_while(below)
    }

    fn is_drawn(&self, (x, y): (f64, f64)) -> bool {
        let logarithmic = self.y_scale == Scale::Logarithmic;
        x.abs() <= LARGEST && y.abs() <= LARGEST && (!logarithmic || y == 0.0 || y >= LARGEST.recip())
    }

    /// The number of the line of zeros that each curve has, if it has zeros and the axis is logarithmic.
    fn lanes(&self) -> Vec<Option<usize>> {
        let logarithmic = self.y_axis(1).1;
        let mut next = 0;
        let lane = |curve: &Curve| {
            let zeros = logarithmic && self.points(curve).any(|(_, y)| y == 0.0);
            zeros.then(|| {
                next += 1;
                next - 1
            })
        };
        self.curves.iter().map(lane).collect()
    }

    /// The vertical axis, and whether it is logarithmic.
    fn y_axis(&self, most: usize) -> (Axis, bool) {
        let drawn = self.curves.iter().flat_map(|curve| self.points(curve)).filter(|&point| self.is_drawn(point));
        let reach = self.reach.into_iter().flat_map(|(low, high)| [low, high]);
        let values: Vec<f64> = drawn.map(|point| point.1).chain(reach).collect();
        if self.y_scale == Scale::Logarithmic {
            let (low, high) = range(values.iter().copied().filter(|&value| value != 0.0));
            if low > 0.0 && high >= DECADE * low {
                return (Axis::logarithmic_around(low..=high, most), true);
            }
        }
        let (low, high) = range(values.into_iter());
        (Axis::linear_around(low..=high, most), false)
    }

    fn x_axis(&self, most: usize) -> Axis {
        let points = self.curves.iter().flat_map(|curve| self.points(curve)).filter(|&point| self.is_drawn(point));
        let (low, high) = range(points.map(|point| point.0).chain(self.x_end));
        match self.x_scale {
            Scale::Linear if self.categories => Axis::linear(low - 0.5..=high + 0.5, most, true),
            Scale::Linear => Axis::linear(low.min(0.0)..=high, most, true),
            Scale::Logarithmic => Axis::logarithmic(low.max(1.0)..=high.max(2.0), most),
        }
    }

    fn frame(&self, (left, top): (f32, f32), (width, height): (f32, f32)) -> Frame {
        let [before, after, above, below] = MARGIN;
        let (x_room, y_room) = (width - before - after, height - above - below);
        let lanes = self.lanes().into_iter().flatten().count();
        let strip = if lanes == 0 { 0.0 } else { LANE * (lanes as f32 + 1.0) };
        Frame {
            x: self.x_axis((x_room / X_LABEL) as usize),
            y: self.y_axis(((y_room - strip) / Y_LABEL) as usize).0,
            left: left + before,
            right: left + before + x_room,
            top: top + above,
            bottom: top + above + y_room,
            strip,
        }
    }

    fn place(&self, curve: &Curve, frame: &Frame, lane: Option<usize>) -> Placed {
        let mut placed = Placed::default();
        // Whether the point before was a zero; none after a gap.
        let mut before = None;
        for (x, y) in self.points(curve) {
            if !self.is_drawn((x, y)) {
                before = None;
                continue;
            }
            let zero = lane.filter(|_| y == 0.0);
            let runs = if zero.is_some() { &mut placed.zeros } else { &mut placed.runs };
            let point = (frame.x(x), zero.map_or_else(|| frame.y(y), |lane| frame.lane(lane)));
            match runs.last_mut() {
                Some(run) if before == Some(zero.is_some()) => run.push(point),
                _ => runs.push(vec![point]),
            }
            before = Some(zero.is_some());
        }
        placed
    }
}

impl Frame {
    /// The lower end of the axis, above the strip.
    fn foot(&self) -> f32 {
        // A gap shows that the axis is broken.
        if self.strip > 0.0 { self.bottom - self.strip - 5.0 } else { self.bottom }
    }

    fn x(&self, value: f64) -> f32 {
        self.left + self.x.part(value) as f32 * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f32 {
        self.foot() - self.y.part(value) as f32 * (self.foot() - self.top)
    }

    fn lane(&self, lane: usize) -> f32 {
        self.bottom - self.strip + LANE * (lane as f32 + 1.0)
    }

    fn draw(&self, scene: &mut Scene) {
        let Frame { left, right, top, bottom, strip, .. } = *self;
        let (line, axis) = (Pen::solid(GRID, 0.7), Pen::solid(GREY, 0.8));
        for (value, label) in &self.x.labelled {
            let x = self.x(*value);
            scene.line(&[(x, top), (x, bottom)], line);
            scene.line(&[(x, bottom), (x, bottom + 4.0)], axis);
            scene.text(label, LABEL, Anchor::Middle, (x, bottom + 16.0), BLACK);
        }
        for &value in &self.x.unlabelled {
            scene.line(&[(self.x(value), bottom), (self.x(value), bottom + 2.5)], axis);
        }
        for (value, label) in &self.y.labelled {
            let y = self.y(*value);
            scene.line(&[(left, y), (right, y)], line);
            scene.line(&[(left - 4.0, y), (left, y)], axis);
            scene.text(label, LABEL, Anchor::End, (left - 7.0, y + 3.5), BLACK);
        }
        for &value in &self.y.unlabelled {
            scene.line(&[(left - 2.5, self.y(value)), (left, self.y(value))], axis);
        }
        scene.line(&[(left, top), (left, self.foot())], axis);
        if strip > 0.0 {
            let (from, middle) = (bottom - strip, bottom - strip / 2.0);
            scene.line(&[(left, from), (left, bottom)], axis);
            for y in [self.foot(), from] {
                scene.line(&[(left - 3.0, y + 1.5), (left + 3.0, y - 1.5)], axis);
            }
            scene.text("0", LABEL, Anchor::End, (left - 7.0, middle + 3.5), BLACK);
        }
        scene.line(&[(left, bottom), (right, bottom)], axis);
    }
}

/// From the smallest to the largest value, never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match (low <= high, low < high) {
        (false, _) => (0.0, 1.0),
        (true, true) => (low, high),
        (true, false) => (low - 0.5 * low.abs().max(1e-9), high + 0.5 * high.abs().max(1e-9)),
    }
}
