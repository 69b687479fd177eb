//! Colours that stay apart for the colour-blind.

/// Red, green and blue.
pub type Colour = [u8; 3];

pub const WHITE: Colour = [255; 3];
pub const BLACK: Colour = [0; 3];
/// Ticks and secondary text.
pub const GREY: Colour = [90; 3];
/// Grid lines.
pub const GRID: Colour = [228; 3];

/// The categorical colours of Okabe and Ito.
const CATEGORIES: [Colour; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

/// The colour of one of `count` curves: a category, or a shade by the order of the curves if they are too many.
pub fn of(index: usize, count: usize) -> Colour {
    match CATEGORIES.get(index) {
        Some(&colour) if count <= CATEGORIES.len() => colour,
        // The lightest colours of the map are too light for a line on white.
        _ => map(0.9 * index as f64 / (count.max(2) - 1) as f64),
    }
}

/// Viridis, dark to light as the value goes from 0 to 1.
pub fn map(value: f64) -> Colour {
    colorous::VIRIDIS.eval_continuous(value.clamp(0.0, 1.0)).as_array()
}

/// The colour mixed with white.
pub fn pale(colour: Colour) -> Colour {
    colour.map(|channel| (0.35 * f64::from(channel) + 0.65 * 255.0) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_curve_has_a_colour_of_its_own() {
        for count in 1..=40 {
            let mut colours: Vec<Colour> = (0..count).map(|index| of(index, count)).collect();
            colours.sort_unstable();
            colours.dedup();
            assert_eq!(colours.len(), count);
        }
    }
}
