//! A scene as SVG.

use std::fmt::Write;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tiny_skia::{Path, PathSegment, Point};

use super::colour::Colour;
use super::scene::{Scene, Shape};

pub fn svg(scene: &Scene) -> Result<String, png::EncodingError> {
    let Scene { title, width, height, shapes } = scene;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escaped(title)
    );
    for shape in shapes {
        match shape {
            Shape::Stroke { path, pen } => {
                let dash: Vec<String> = pen.dash.iter().map(f32::to_string).collect();
                let dash =
                    if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{}\"", dash.join(" ")) };
                let (path, colour, width) = (data(path), hex(pen.colour), pen.width);
                svg += &format!(
                    "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" \
                     stroke-linejoin=\"round\"{dash}/>\n"
                );
            }
            Shape::Fill { path, colour } => svg += &format!("<path d=\"{}\" fill=\"{}\"/>\n", data(path), hex(*colour)),
            Shape::Text { path, colour, text } => {
                let (text, path, colour) = (escaped(text), data(path), hex(*colour));
                svg += &format!("<path role=\"img\" aria-label=\"{text}\" d=\"{path}\" fill=\"{colour}\"/>\n");
            }
            Shape::Pixels { pixels, area } => {
                let (x, y, width, height) = (area.x(), area.y(), area.width(), area.height());
                let png = BASE64_STANDARD.encode(pixels.png()?);
                svg += &format!(
                    "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
                     image-rendering=\"pixelated\" href=\"data:image/png;base64,{png}\"/>\n"
                );
            }
        }
    }
    Ok(svg + "</svg>\n")
}

fn hex([r, g, b]: Colour) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A path's commands, to a hundredth of a pixel.
fn data(path: &Path) -> String {
    let mut data = String::new();
    let mut add = |command: char, points: &[Point]| {
        data.push(command);
        for (i, point) in points.iter().enumerate() {
            let [x, y] = [point.x, point.y].map(|v| (f64::from(v) * 100.0).round() / 100.0);
            let _ = write!(data, "{}{x} {y}", if i == 0 { "" } else { " " });
        }
    };
    for segment in path.segments() {
        match segment {
            PathSegment::MoveTo(to) => add('M', &[to]),
            PathSegment::LineTo(to) => add('L', &[to]),
            PathSegment::QuadTo(by, to) => add('Q', &[by, to]),
            PathSegment::CubicTo(first, second, to) => add('C', &[first, second, to]),
            PathSegment::Close => add('Z', &[]),
        }
    }
    data
}
