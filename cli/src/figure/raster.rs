//! A scene as PNG, with twice its pixels.

use tiny_skia::{
    FillRule, FilterQuality, LineCap, LineJoin, Paint, Path, Pixmap, PixmapPaint, PremultipliedColorU8, Stroke,
    StrokeDash, Transform,
};

use super::colour::Colour;
use super::scene::{Pen, Scene, Shape};
use crate::pixels::Pixels;

/// Pixels of the PNG in one of the scene.
pub const SCALE: f32 = 2.0;

/// The pixels of a scene; none if it is empty or too large.
pub fn rasterize(scene: &Scene) -> Option<Pixels> {
    let [width, height] = [scene.width, scene.height].map(|side| (SCALE * side).ceil() as u32);
    let mut pixmap = Pixmap::new(width, height)?;
    pixmap.fill(tiny_skia::Color::WHITE);
    let scale = Transform::from_scale(SCALE, SCALE);
    for shape in &scene.shapes {
        match shape {
            Shape::Stroke { path, pen } => stroke(&mut pixmap, path, pen, scale),
            Shape::Fill { path, colour } | Shape::Text { path, colour, .. } => {
                pixmap.fill_path(path, &paint(*colour), FillRule::Winding, scale, None);
            }
            Shape::Pixels { pixels, area } => {
                let wide = area.width() / pixels.width as f32;
                let high = area.height() / pixels.height as f32;
                let place = Transform::from_scale(wide, high).post_translate(area.x(), area.y()).post_concat(scale);
                let nearest = PixmapPaint { quality: FilterQuality::Nearest, ..PixmapPaint::default() };
                pixmap.draw_pixmap(0, 0, opaque(pixels)?.as_ref(), &nearest, place, None);
            }
        }
    }
    let rgb = pixmap.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
    Some(Pixels { width, height, rgb })
}

fn stroke(pixmap: &mut Pixmap, path: &Path, pen: &Pen, scale: Transform) {
    let stroke = Stroke {
        width: pen.width,
        line_cap: LineCap::Butt,
        line_join: LineJoin::Round,
        dash: StrokeDash::new(pen.dash.to_vec(), 0.0),
        ..Stroke::default()
    };
    pixmap.stroke_path(path, &paint(pen.colour), &stroke, scale, None);
}

fn paint([r, g, b]: Colour) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, 255);
    paint
}

fn opaque(pixels: &Pixels) -> Option<Pixmap> {
    let mut pixmap = Pixmap::new(pixels.width, pixels.height)?;
    for (pixel, rgb) in pixmap.pixels_mut().iter_mut().zip(pixels.rgb.chunks_exact(3)) {
        *pixel = PremultipliedColorU8::from_rgba(rgb[0], rgb[1], rgb[2], 255)?;
    }
    Some(pixmap)
}
