//! Figures: each is drawn once, into a scene, of which an SVG and a PNG are made.

mod axis;
mod bars;
mod colour;
mod curve;
mod graph;
mod grid;
mod maps;
mod panel;
mod raster;
mod scene;
mod smooth;
mod svg;
mod text;

use std::path::Path;

use predictive_coding::write_atomically;

pub use axis::Scale;
pub use bars::{Bar, Bars};
pub use colour::of as colour;
pub use curve::{Curve, Look};
pub use graph::{Graph, Node};
pub use grid::Figure;
pub use maps::{Content, Map, Sheet, channel_norms, largest};
pub use panel::Panel;
pub use scene::Scene;
pub use smooth::thin;

use crate::console::Failure;

/// Writes `<path>.svg` and `<path>.png`.
pub fn write(path: &Path, scene: &Scene) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::run(format!("{}: can not be drawn: {error}", path.display()));
    let svg = svg::svg(scene).map_err(|e| failed(&e))?;
    write_atomically(path.with_extension("svg"), svg.as_bytes()).map_err(Failure::run)?;
    let pixels = raster::rasterize(scene).ok_or_else(|| failed(&"it is too large for a PNG"))?;
    let png = pixels.png().map_err(|e| failed(&e))?;
    write_atomically(path.with_extension("png"), &png).map_err(Failure::run)
}

#[cfg(test)]
mod tests;
