//! Between rows of samples and images across lanes.

/// Puts `samples` rows of `elements` each, one after the other in `rows`, into the lanes of
/// `[elements][lanes]`; lanes beyond the last sample are 0.
///
/// # Panics
/// If a length does not fit.
pub fn rows_to_lanes(rows: &[f32], elements: usize, lanes: &mut [f32], width: usize) {
    let samples = check(rows.len(), elements, lanes.len(), width);
    for (i, lanes) in lanes.chunks_exact_mut(width).enumerate() {
        for (sample, lane) in lanes[..samples].iter_mut().enumerate() {
            *lane = rows[sample * elements + i];
        }
        lanes[samples..].fill(0.0);
    }
}

/// The reverse of [`rows_to_lanes`], for as many samples as `rows` holds.
///
/// # Panics
/// If a length does not fit.
pub fn lanes_to_rows(lanes: &[f32], width: usize, rows: &mut [f32], elements: usize) {
    let samples = check(rows.len(), elements, lanes.len(), width);
    for (i, lanes) in lanes.chunks_exact(width).enumerate() {
        for (sample, lane) in lanes[..samples].iter().enumerate() {
            rows[sample * elements + i] = *lane;
        }
    }
}

fn check(rows: usize, elements: usize, lanes: usize, width: usize) -> usize {
    let samples = rows.checked_div(elements).unwrap_or(0);
    assert!(
        samples <= width && samples * elements == rows && lanes == elements * width,
        "{rows} elements of samples of {elements} do not fit {lanes} elements of {width} lanes"
    );
    samples
}
