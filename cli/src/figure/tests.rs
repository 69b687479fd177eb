//! What is seen in a figure.

use super::colour::{GREY, GRID};
use super::raster::{SCALE, rasterize};
use super::scene::Shape;
use super::svg::svg;
use super::*;
use crate::pixels::Pixels;

fn curve(points: &[(f64, f64)]) -> Curve {
    Curve { name: "curve".into(), points: points.to_vec(), ..Curve::default() }
}

fn figure(panels: Vec<Panel>) -> Figure {
    Figure { title: "Title".into(), settings: "settings".into(), panels, columns: 2 }
}

fn texts(scene: &Scene) -> Vec<&str> {
    scene
        .shapes
        .iter()
        .filter_map(|shape| match shape {
            Shape::Text { text, .. } => Some(&text[..]),
            _ => None,
        })
        .collect()
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
        &[(1.0, 1.0), (2.0, 1.0 + f64::EPSILON)],
    ] {
        for look in [Look::Line, Look::Smoothed, Look::Marks] {
            let panels = [Scale::Linear, Scale::Logarithmic].map(|scale| Panel {
                x_scale: scale,
                y_scale: scale,
                curves: vec![Curve { look, ..curve(points) }; 2],
                ..Panel::default()
            });
            write(&path, &figure(panels.to_vec()).scene()).unwrap();
            let svg = std::fs::read_to_string(path.with_extension("svg")).unwrap();
            assert!(svg.contains("Title") && svg.contains("curve") && !svg.contains("NaN"), "{points:?}");
        }
    }
}

#[test]
fn the_svg_has_every_shape_and_the_png_twice_its_pixels() {
    let noisy: Vec<(f64, f64)> = (0..200).map(|i| (f64::from(i), 2.0 + f64::from(i * 7919 % 13))).collect();
    let panel = Panel {
        title: "a < b & c".into(),
        curves: vec![Curve { look: Look::Smoothed, ..curve(&noisy) }],
        ..Panel::default()
    };
    let scene = figure(vec![panel]).scene();
    let written = svg(&scene).unwrap();
    assert!(written.contains("aria-label=\"a &lt; b &amp; c\""));
    let count = written.matches("<path ").count() + written.matches("<image ").count();
    assert_eq!(count, scene.shapes.len());
    let png = rasterize(&scene).unwrap();
    assert_eq!((png.width, png.height), ((SCALE * scene.width) as u32, (SCALE * scene.height) as u32));
    let ink = png.rgb.chunks(3).filter(|rgb| rgb.iter().all(|&channel| channel < 100)).count();
    assert!(ink > 2000, "{ink} dark pixels, expected the letters of titles and labels");
}

#[test]
fn zeros_have_lines_of_their_own_below_a_logarithmic_axis() {
    let zeros = |i: u32| curve(&[(1.0, 1.0), (2.0, 10f64.powi(-(i as i32))), (3.0, 0.0), (4.0, 0.0)]);
    let panel = Panel { y_scale: Scale::Logarithmic, curves: (2..5).map(zeros).collect(), ..Panel::default() };
    let scene = figure(vec![panel]).scene();
    assert_eq!(texts(&scene).iter().filter(|text| **text == "0").count(), 2, "one of x and one of the zeros");
    let ends: Vec<(f32, f32)> = scene
        .shapes
        .iter()
        .filter_map(|shape| match shape {
            Shape::Stroke { path, pen } if ![GREY, GRID].contains(&pen.colour) => Some(path.bounds()),
            _ => None,
        })
        .filter(|bounds| bounds.height() == 0.0 && bounds.width() > 50.0)
        .map(|bounds| (bounds.left(), bounds.top()))
        .collect();
    assert_eq!(ends.len(), 3, "a line for the zeros of each curve");
    assert!(ends.windows(2).all(|pair| pair[0].1 + 3.0 < pair[1].1), "{ends:?}");
}

#[test]
fn labels_do_not_lie_on_each_other() {
    for (low, high) in [(0.0071, 0.12), (1e-8, 1.0), (1e-90, 1e90), (3.0, 40.0), (0.0, 1.0), (1e8, 1.0001e8)] {
        for y_scale in [Scale::Linear, Scale::Logarithmic] {
            let points = [(1.0, low), (400.0, high)];
            let panel = Panel { x_scale: y_scale, y_scale, curves: vec![curve(&points)], ..Panel::default() };
            let scene = Figure { columns: 4, ..figure(vec![panel; 4]) }.scene();
            let bounds: Vec<_> = scene
                .shapes
                .iter()
                .filter_map(|shape| match shape {
                    Shape::Text { path, .. } => Some(path.bounds()),
                    _ => None,
                })
                .collect();
            for (i, a) in bounds.iter().enumerate() {
                assert!(a.left() >= 0.0 && a.right() <= scene.width && a.bottom() <= scene.height, "{a:?}");
                assert!(bounds[..i].iter().all(|b| a.intersect(b).is_none()), "{:?}", texts(&scene)[i]);
            }
        }
    }
}

#[test]
fn panels_share_a_legend() {
    let panel = |names: &[&str]| Panel {
        curves: names.iter().map(|name| Curve { name: (*name).into(), ..Curve::default() }).collect(),
        ..Panel::default()
    };
    let count = |panels: &[&[&str]]| {
        let scene = figure(panels.iter().map(|names| panel(names)).collect()).scene();
        texts(&scene).iter().filter(|text| **text == "a").count()
    };
    assert_eq!(count(&[&["a", "b"], &["a", "b"], &["a", "b"], &["a", "b"]]), 1, "all are alike");
    assert_eq!(count(&[&["a", "b"], &["a", "b"], &["a", "c"], &["a", "c"]]), 2, "those of a row are alike");
    assert_eq!(count(&[&["a", "b"], &["a", "c"]]), 2);
    assert_eq!(count(&[&["a"], &["a"]]), 0, "a curve alone needs none");
}

#[test]
fn a_curve_ends_where_it_rises_too_high_and_breaks_where_it_is_not_finite() {
    let runs = |points: &[(f64, f64)], highest| {
        let panel = Panel { highest, curves: vec![curve(points)], ..Panel::default() };
        let curves = |shape: &Shape| matches!(shape, Shape::Stroke { pen, .. } if ![GREY, GRID].contains(&pen.colour));
        figure(vec![panel]).scene().shapes.iter().filter(|shape| curves(shape)).count()
    };
    let points = [(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 3.0), (5.0, 200.0), (6.0, 1.0), (7.0, 1.0)];
    assert_eq!(runs(&points, None), 2);
    assert_eq!(runs(&points, Some(100.0)), 1, "a line, and the point at 4 alone as a dot");
}

#[test]
fn pixels_are_drawn_where_they_lie() {
    let mut scene = Scene { width: 10.0, height: 10.0, ..Scene::default() };
    scene.pixels(Pixels { width: 2, height: 1, rgb: vec![255, 0, 0, 0, 0, 255] }, (2.0, 3.0), (4.0, 2.0));
    let png = rasterize(&scene).unwrap();
    let at = |x: usize, y: usize| &png.rgb[3 * (y * png.width as usize + x)..][..3];
    assert_eq!([at(4, 6), at(7, 9), at(8, 6), at(11, 9)], [[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]]);
    assert_eq!([at(3, 6), at(4, 5), at(12, 6), at(4, 10)], [[255; 3]; 4]);
}
