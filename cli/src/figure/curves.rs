//! Panels of curves.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::prelude::*;
use plotters::style::IntoTextStyle;

use super::{COLOURS, Drawing, Drawn, FONT, number, save};
use crate::console::Failure;

const PANEL: (u32, u32) = (640, 440);

/// Height of a panel's title and legend.
const HEAD: u32 = 60;

/// What is larger, or on a logarithmic axis smaller than its inverse, is left out as if it were not finite: no search
/// for ticks ends among the largest numbers.
const LARGEST: f64 = 1e100;

/// A logarithmic axis needs this span to have ticks enough.
const DECADE: f64 = 10.0;

/// Curves over one pair of axes.
#[derive(Default)]
pub struct Panel {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Whether the vertical axis is logarithmic if the values span a decade; those of 0 and below are
    /// then left out.
    pub logarithmic: bool,
    /// Whether the horizontal axis counts something: ticks at whole numbers alone.
    pub whole_x: bool,
    /// The horizontal axis; as far as the points reach, if none.
    pub x_range: Option<(f64, f64)>,
    /// Curves end where they rise above this.
    pub highest: Option<f64>,
    /// The vertical axis reaches at least over this.
    pub reach: Option<(f64, f64)>,
    /// Values below this are drawn at it: the zeros of a logarithmic axis.
    pub floor: Option<f64>,
    pub curves: Vec<Curve>,
}

/// A curve through points, in the colour of this index.
#[derive(Default)]
pub struct Curve {
    pub name: String,
    pub colour: usize,
    /// Whether the colour is mixed with white.
    pub pale: bool,
    /// Whether it is drawn wide, behind the others: one that another may lie on.
    pub wide: bool,
    /// Whether every point gets a dot.
    pub dots: bool,
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    fn colour(&self) -> RGBColor {
        let colour = COLOURS[self.colour % COLOURS.len()];
        let mixed = |channel: u8| if self.pale { channel / 5 * 2 + 153 } else { channel };
        RGBColor(mixed(colour.0), mixed(colour.1), mixed(colour.2))
    }
}

/// Writes `<path>.svg` and `<path>.png` with the panels in rows of two.
pub fn write(path: &Path, panels: &[Panel]) -> Result<(), Failure> {
    write_in_rows(path, panels, 2)
}

/// Writes `<path>.svg` and `<path>.png` with so many panels in a row.
pub fn write_in_rows(path: &Path, panels: &[Panel], columns: usize) -> Result<(), Failure> {
    save(path, &Grid { panels, columns: panels.len().clamp(1, columns) })
}

struct Grid<'a> {
    panels: &'a [Panel],
    columns: usize,
}

impl Grid<'_> {
    fn rows(&self) -> usize {
        self.panels.len().div_ceil(self.columns).max(1)
    }
}

impl Drawing for Grid<'_> {
    fn size(&self) -> (u32, u32) {
        (PANEL.0 * self.columns as u32, PANEL.1 * self.rows() as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
        draw(area, self.panels, (self.rows(), self.columns))
    }
}

fn draw<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>, panels: &[Panel], grid: (usize, usize)) -> Drawn<DB> {
    for (area, panel) in area.split_evenly(grid).iter().zip(panels) {
        let (head, body) = area.split_vertically(HEAD);
        draw_head(&head, panel)?;
        let drawn = |&(x, y): &(f64, f64)| {
            x.abs() <= LARGEST && y.abs() <= LARGEST && (!panel.logarithmic || y >= LARGEST.recip())
        };
        let below = |&(_, y): &(f64, f64)| panel.highest.is_none_or(|highest| y <= highest);
        let raised = |&(x, y): &(f64, f64)| (x, panel.floor.map_or(y, |floor| if y < floor { floor } else { y }));
        let points = |curve: &Curve| curve.points.iter().map(raised).take_while(below).filter(drawn).collect();
        let curves: Vec<Vec<(f64, f64)>> = panel.curves.iter().map(points).collect();
        let x = match panel.x_range {
            Some((start, end)) => start..end,
            None => range(curves.iter().flatten().map(|point| point.0)),
        };
        let x = if panel.whole_x { x.start - 0.25..x.end + 0.25 } else { x };
        let reach = panel.reach.into_iter().flat_map(|(low, high)| [low, high]);
        let y = range(curves.iter().flatten().map(|point| point.1).chain(reach));
        let mut chart = ChartBuilder::on(&body);
        chart.margin(8).margin_right(20).x_label_area_size(44).y_label_area_size(72);
        match panel.logarithmic && y.start > 0.0 && y.end >= DECADE * y.start {
            true => draw_curves(chart.build_cartesian_2d(x, (y.start / 1.3..y.end * 1.3).log_scale())?, panel, curves)?,
            false => {
                let margin = 0.05 * (y.end - y.start);
                draw_curves(chart.build_cartesian_2d(x, y.start - margin..y.end + margin)?, panel, curves)?;
            }
        }
    }
    Ok(())
}

/// Title and, in one row below it, what the colours mean.
fn draw_head<DB: DrawingBackend>(head: &DrawingArea<DB, Shift>, panel: &Panel) -> Drawn<DB> {
    const LINE: i32 = 20;
    let title = (FONT, 20).into_text_style(head);
    let label = (FONT, 14).into_text_style(head);
    head.draw_text(&panel.title, &title, (80, 10))?;
    let mut x = 80;
    for curve in &panel.curves {
        let colour = curve.colour();
        head.draw(&PathElement::new([(x, 48), (x + LINE, 48)], colour.stroke_width(if curve.wide { 6 } else { 3 })))?;
        head.draw_text(&curve.name, &label, (x + LINE + 6, 41))?;
        x += LINE + 30 + head.estimate_text_size(&curve.name, &label)?.0 as i32;
    }
    Ok(())
}

/// From the smallest to the largest value, never empty.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match (low <= high, low < high) {
        (false, _) => 0.0..1.0,
        (true, true) => low..high,
        (true, false) => low - 0.5 * low.abs().max(1e-9)..high + 0.5 * high.abs().max(1e-9),
    }
}

fn draw_curves<'a, DB: DrawingBackend + 'a, Y: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    mut chart: ChartContext<'a, DB, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    panel: &Panel,
    curves: Vec<Vec<(f64, f64)>>,
) -> Drawn<DB> {
    let x_label = |x: &f64| if panel.whole_x && x.fract() != 0.0 { String::new() } else { number(*x) };
    let mut mesh = chart.configure_mesh();
    if panel.whole_x {
        mesh.disable_x_mesh();
    }
    mesh.light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_desc(&panel.x_label)
        .y_desc(&panel.y_label)
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .x_label_formatter(&x_label)
        .y_label_formatter(&|y| number(*y))
        .draw()?;
    let mut curves: Vec<_> = panel.curves.iter().zip(curves).collect();
    // What may cover others lies behind.
    curves.sort_by_key(|(curve, _)| (!curve.pale, !curve.wide));
    for (curve, points) in curves {
        let colour = curve.colour();
        if curve.dots {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
        }
        chart.draw_series(LineSeries::new(points, colour.stroke_width(if curve.wide { 5 } else { 2 })))?;
    }
    Ok(())
}

/// Means over runs of neighbouring points, so that at most `most` are left.
pub fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let run = points.len().div_ceil(most).max(1);
    let mean = |points: &[(f64, f64)]| {
        let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (x / points.len() as f64, y / points.len() as f64)
    };
    points.chunks(run).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(logarithmic: bool, points: &[(f64, f64)]) -> Panel {
        let curve = Curve { name: "curve".into(), dots: true, points: points.to_vec(), ..Curve::default() };
        Panel {
            title: "Title".into(),
            x_label: "step".into(),
            y_label: "loss".into(),
            logarithmic,
            whole_x: logarithmic,
            curves: vec![curve],
            ..Panel::default()
        }
    }

    #[test]
    fn both_files_are_drawn_whatever_the_points() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("figure");
        for points in [
            &[][..],
            &[(1.0, 0.0)],
            &[(1.0, f64::NAN), (2.0, f64::INFINITY)],
            &[(1.0, 5.0), (2.0, 5.0)],
            &[(1.0, 1e-30), (2.0, 1e30)],
            &[(0.0, -1.0), (1e9, 1.0)],
            &[(1.0, 1e-5), (2.0, 1.7e308)],
            &[(1.0, 5e-324), (2.0, 1.0)],
            &[(1.0, -1e306), (2.0, 1e306)],
            &[(1.0, -1e100), (2.0, 1e100)],
            &[(1.0, 1e-100), (2.0, 1e100)],
        ] {
            write(&path, &[panel(false, points), panel(true, points), panel(true, points)]).unwrap();
            let svg = std::fs::read_to_string(path.with_extension("svg")).unwrap();
            assert!(svg.contains("Title") && svg.contains("curve"), "{points:?}");
        }
        let bytes = std::fs::File::open(path.with_extension("png")).unwrap();
        let mut png = png::Decoder::new(std::io::BufReader::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; png.output_buffer_size().unwrap()];
        let info = png.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (1280, 880));
        let dark = pixels.chunks(3).filter(|rgb| rgb.iter().all(|&channel| channel < 100)).count();
        assert!(dark > 500, "{dark} dark pixels, expected the letters of titles and labels");
    }

    #[test]
    fn thinning_keeps_the_mean() {
        let points: Vec<_> = (0..10).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        assert_eq!(thin(&points, 5), [(0.5, 1.0), (2.5, 5.0), (4.5, 9.0), (6.5, 13.0), (8.5, 17.0)]);
        assert_eq!(thin(&points, 10), points);
        assert_eq!(thin(&[], 5), []);
    }
}
