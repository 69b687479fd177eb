//! Letters as outlines.

use std::sync::LazyLock;

use tiny_skia::{Path, PathBuilder, Transform};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

use super::scene::Anchor;

static FACE: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(dejavu::sans::regular(), 0).expect("the embedded font is whole"));

/// The outline of a text of this size at a place; none of a text without ink.
pub fn outline(text: &str, size: f32, anchor: Anchor, (x, y): (f32, f32)) -> Option<Path> {
    let scale = size / f32::from(FACE.units_per_em());
    let mut glyphs = Glyphs { path: PathBuilder::new(), left: 0.0 };
    for glyph in text.chars().map(glyph) {
        FACE.outline_glyph(glyph, &mut glyphs);
        glyphs.left += advance(glyph);
    }
    let width = scale * glyphs.left;
    let start = match anchor {
        Anchor::Start => 0.0,
        Anchor::Middle | Anchor::Upwards => -width / 2.0,
        Anchor::End => -width,
    };
    let turn = if let Anchor::Upwards = anchor { -90.0 } else { 0.0 };
    let transform =
        Transform::from_scale(scale, -scale).post_translate(start, 0.0).post_rotate(turn).post_translate(x, y);
    glyphs.path.finish()?.transform(transform)
}

pub fn width(text: &str, size: f32) -> f32 {
    text.chars().map(|letter| advance(glyph(letter))).sum::<f32>() * size / f32::from(FACE.units_per_em())
}

/// A text in lines of at most this width, broken between words.
pub fn lines(text: &str, size: f32, most: f32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= most => *line = format!("{line} {word}"),
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// The font's sign for a letter; the one for a missing letter, if it has none.
fn glyph(letter: char) -> GlyphId {
    FACE.glyph_index(letter).unwrap_or(GlyphId(0))
}

fn advance(glyph: GlyphId) -> f32 {
    f32::from(FACE.glyph_hor_advance(glyph).unwrap_or(0))
}

struct Glyphs {
    path: PathBuilder,
    left: f32,
}

impl OutlineBuilder for Glyphs {
    fn move_to(&mut self, x: f32, y: f32) {
        self.path.move_to(self.left + x, y);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.path.line_to(self.left + x, y);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.path.quad_to(self.left + x1, y1, self.left + x, y);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.path.cubic_to(self.left + x1, y1, self.left + x2, y2, self.left + x, y);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lie_where_they_are_anchored() {
        for (anchor, [left, right]) in
            [(Anchor::Start, [0.0, 1.0]), (Anchor::Middle, [-0.5, 0.5]), (Anchor::End, [-1.0, 0.0])]
        {
            let bounds = outline("HOH", 20.0, anchor, (100.0, 50.0)).unwrap().bounds();
            let width = width("HOH", 20.0);
            // A letter has up to a tenth of its size left and right of its ink.
            for (found, expected) in [(bounds.left(), left), (bounds.right(), right)] {
                assert!((found - (100.0 + expected * width)).abs() < 3.0, "{anchor:?}: {bounds:?}, width {width}");
            }
            assert!((49.0..52.0).contains(&bounds.bottom()) && (30.0..40.0).contains(&bounds.top()), "{bounds:?}");
        }
        let upwards = outline("HOH", 20.0, Anchor::Upwards, (100.0, 50.0)).unwrap().bounds();
        assert!(upwards.height() > upwards.width() && upwards.right() < 102.0, "{upwards:?}");
        assert!(outline(" ", 20.0, Anchor::Start, (0.0, 0.0)).is_none());
    }

    #[test]
    fn lines_break_between_words() {
        let text = "strict (0.1, 20), batch 300, 2 epochs";
        let most = width("strict (0.1, 20), batch", 10.0);
        assert_eq!(lines(text, 10.0, most), ["strict (0.1, 20), batch", "300, 2 epochs"]);
        assert_eq!(lines("unbreakable", 10.0, 1.0), ["unbreakable"]);
        assert_eq!(lines("", 10.0, 1.0), [""; 0]);
    }
}
