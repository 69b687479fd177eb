//! Figures, drawn alike to SVG and PNG.

mod bars;
mod curves;
mod maps;

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use predictive_coding::write_atomically;

pub use bars::{Bar, write_bars};
pub use curves::{Curve, Panel, thin, write, write_in_rows};
pub use maps::{Map, Sheet, channel_norms, heat, write_maps};

use crate::console::Failure;

/// Categorical colours that stay apart for the colour-blind (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

const FONT: &str = "sans-serif";

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// Something to be drawn.
trait Drawing {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws lines and letters on white.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Drawn<DB>;

    /// Pictures that are made of pixels, with the place of their top left corner.
    fn pictures(&self) -> Vec<(Picture, (u32, u32))> {
        Vec::new()
    }
}

/// Pixels, `[height][width][3]`.
struct Picture {
    width: u32,
    height: u32,
    rgb: Vec<u8>,
}

/// Writes `<path>.svg` and `<path>.png`.
fn save(path: &Path, drawing: &impl Drawing) -> Result<(), Failure> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // The font is embedded and known to parse: the PNG test would show it.
        let _ = plotters::style::register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
    });
    let failed = |error: &dyn std::fmt::Display| Failure::run(format!("{}: can not be drawn: {error}", path.display()));
    let (width, height) = drawing.size();
    let pictures = drawing.pictures();

    let mut svg = String::new();
    draw(drawing, &SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area()).map_err(|e| failed(&e))?;
    let end = svg.rfind("</svg>").unwrap_or(svg.len());
    for (picture, (left, top)) in &pictures {
        let png = encode_png(&picture.rgb, (picture.width, picture.height)).map_err(|e| failed(&e))?;
        let png = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, png);
        let Picture { width, height, .. } = picture;
        svg.insert_str(
            end,
            &format!(
                "<image x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" \
                 href=\"data:image/png;base64,{png}\"/>\n"
            ),
        );
    }
    write_atomically(path.with_extension("svg"), svg.as_bytes()).map_err(Failure::run)?;

    let mut pixels = vec![0; 3 * width as usize * height as usize];
    draw(drawing, &BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area())
        .map_err(|e| failed(&e))?;
    for (picture, (left, top)) in &pictures {
        for (row, y) in picture.rgb.chunks_exact(3 * picture.width as usize).zip(*top as usize..) {
            pixels[3 * (y * width as usize + *left as usize)..][..row.len()].copy_from_slice(row);
        }
    }
    let png = encode_png(&pixels, (width, height)).map_err(|e| failed(&e))?;
    write_atomically(path.with_extension("png"), &png).map_err(Failure::run)
}

fn draw<DB: DrawingBackend>(drawing: &impl Drawing, area: &DrawingArea<DB, Shift>) -> Drawn<DB> {
    area.fill(&WHITE)?;
    drawing.draw(area)?;
    area.present()
}

fn encode_png(pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(bytes)
}

/// A tick's number, short.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        magnitude if (1e-3..1e6).contains(&magnitude) => format!("{}", (value * 1e4).round() / 1e4),
        // Neighbouring ticks differ in the second digit.
        _ => format!("{value:.1e}").replace(".0e", "e"),
    }
}
