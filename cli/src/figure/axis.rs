//! Axes: where values lie, and which of them have labels.

use std::ops::RangeInclusive;

/// How values are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    #[default]
    Linear,
    Logarithmic,
}

/// An axis from one value to another.
#[derive(Clone, Debug)]
pub struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Values with labels, and those between that have none.
    pub labelled: Vec<(f64, String)>,
    pub unlabelled: Vec<f64>,
}

/// The leading digits of round numbers.
const MANTISSAS: [f64; 3] = [1.0, 2.0, 5.0];

impl Axis {
    /// A linear axis over exactly this range with about `most` labels; with `whole`, at whole numbers alone.
    pub fn linear(range: RangeInclusive<f64>, most: usize, whole: bool) -> Self {
        let (low, high) = range.into_inner();
        let step = step(low, high, most, whole);
        let first = (low / step).ceil();
        let ticks = (0..=2 * most).map(|i| (first + i as f64) * step).take_while(|&tick| tick <= high + 1e-9 * step);
        let labelled = ticks.map(|tick| (tick, number(tick, step))).collect();
        Axis { scale: Scale::Linear, low, high, labelled, unlabelled: Vec::new() }
    }

    /// A linear axis that begins and ends with a label.
    pub fn linear_around(range: RangeInclusive<f64>, most: usize) -> Self {
        let (low, high) = range.into_inner();
        let step = step(low, high, most, false);
        // A value that is a label but for rounding is one.
        let [low, high] = [(low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step];
        Axis::linear(low..=high, most, false)
    }

    /// A logarithmic axis over a range of positive numbers with about `most` labels at most: at 1, 2 and 5 times each
    /// power of ten if the range is narrow, at every second or third power of ten if it is wide.
    pub fn logarithmic(range: RangeInclusive<f64>, most: usize) -> Self {
        let (low, high) = range.into_inner();
        let [first, last] = [low.log10().floor() as i32, high.log10().ceil() as i32];
        let inside = |value: &f64| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(value);
        let every = ((last - first) as usize).div_ceil(most.max(2)).max(1) as i32;
        let narrow = 3.0 * (high / low).log10() <= most as f64;
        let labels = if narrow { &MANTISSAS[..] } else { &MANTISSAS[..1] };
        let decades = || (first..=last).filter(move |decade| decade.rem_euclid(every) == 0);
        let labelled: Vec<f64> = decades().flat_map(|decade| labels.iter().map(move |m| m * power(decade))).collect();
        let labelled: Vec<f64> = labelled.into_iter().filter(inside).collect();
        let plain = labelled.iter().all(|value| (1e-3..=1e4).contains(value));
        let label = |value: f64| if plain { format!("{value}") } else { scientific(value) };
        let unlabelled: Vec<f64> = match every {
            1 => (first..=last).flat_map(|decade| (1..10).map(move |m| f64::from(m) * power(decade))).collect(),
            _ => (first..=last).map(power).collect(),
        };
        let is_labelled = |value: &f64| labelled.iter().any(|other| (value / other - 1.0).abs() < 1e-9);
        let unlabelled = unlabelled.into_iter().filter(inside).filter(|value| !is_labelled(value)).collect();
        let labelled = labelled.iter().map(|&value| (value, label(value))).collect();
        Axis { scale: Scale::Logarithmic, low, high, labelled, unlabelled }
    }

    /// A logarithmic axis that begins and ends with 1, 2 or 5 times a power of ten.
    pub fn logarithmic_around(range: RangeInclusive<f64>, most: usize) -> Self {
        let around = |value: f64| {
            let decade = value.log10().floor() as i32;
            [decade, decade + 1].into_iter().flat_map(|decade| MANTISSAS.map(|m| m * power(decade)))
        };
        let (low, high) = range.into_inner();
        let below = around(low).rfind(|bound| *bound <= low * (1.0 + 1e-9)).unwrap_or(low);
        let above = around(high).find(|bound| *bound >= high * (1.0 - 1e-9)).unwrap_or(high);
        Axis::logarithmic(below..=above, most)
    }

    /// Where a value lies, from 0 to 1 along the axis.
    pub fn part(&self, value: f64) -> f64 {
        let [low, high, value] = match self.scale {
            Scale::Linear => [self.low, self.high, value],
            Scale::Logarithmic => [self.low, self.high, value].map(f64::log10),
        };
        (value - low) / (high - low)
    }
}

/// The distance of ticks: 1, 2 or 5 times a power of ten.
fn step(low: f64, high: f64, most: usize, whole: bool) -> f64 {
    let least = (high - low) / most.max(1) as f64;
    let decade = least.log10().floor() as i32;
    let steps = [decade, decade + 1].into_iter().flat_map(|decade| MANTISSAS.map(|m| m * power(decade)));
    let step = steps.into_iter().find(|step| *step >= least * (1.0 - 1e-9)).unwrap_or(least);
    if whole { step.max(1.0) } else { step }
}

/// Ten to a power, as exact as its decimal.
fn power(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap_or(f64::NAN)
}

/// The label of a tick among others at this distance.
fn number(value: f64, step: f64) -> String {
    let value = if value.abs() < 1e-9 * step { 0.0 } else { value };
    match value.abs() {
        magnitude if magnitude >= 1e6 || (step < 1e-4 && value != 0.0) => scientific(value),
        _ => format!("{value:.*}", (-step.log10().floor()).clamp(0.0, 9.0) as usize),
    }
}

/// A value to three digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        magnitude if (1e-3..1e4).contains(&magnitude) => {
            let digits = (2.0 - magnitude.log10().floor()).max(0.0) as i32;
            let unit = power(digits);
            format!("{}", (value * unit).round() / unit)
        }
        _ => scientific(value),
    }
}

/// A value as 10⁻⁸ or 2.5×10⁻⁸, to three digits.
fn scientific(value: f64) -> String {
    let written = format!("{value:.2e}");
    let Some((mantissa, exponent)) = written.split_once('e') else { return written };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let raised = exponent.chars().map(|digit| match digit {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32('⁰' as u32 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    });
    let power: String = "10".chars().chain(raised).collect();
    match mantissa {
        "1" => power,
        "-1" => format!("-{power}"),
        _ => format!("{mantissa}×{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.labelled.iter().map(|(_, label)| &label[..]).collect()
    }

    #[test]
    fn linear_axes_have_round_labels() {
        assert_eq!(
            labels(&Axis::linear(0.0..=400.0, 8, true)),
            ["0", "50", "100", "150", "200", "250", "300", "350", "400"]
        );
        assert_eq!(labels(&Axis::linear(1.0..=4.0, 8, true)), ["1", "2", "3", "4"]);
        let axis = Axis::linear_around(0.12..=0.93, 5);
        assert_eq!(labels(&axis), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!([0.0, 0.5, 1.0].map(|value| axis.part(value)), [0.0, 0.5, 1.0]);
        assert_eq!(labels(&Axis::linear_around(-2e7..=2e7, 4)), ["-2×10⁷", "-10⁷", "0", "10⁷", "2×10⁷"]);
    }

    #[test]
    fn logarithmic_axes_have_their_decades_labelled() {
        let axis = Axis::logarithmic_around(0.0071..=0.12, 8);
        assert_eq!(labels(&axis), ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]);
        assert!((axis.part(0.2) - 1.0).abs() < 1e-12 && (axis.part(0.0316227766) - 0.5).abs() < 1e-9);
        let axis = Axis::logarithmic_around(3e-8..=1.0, 9);
        assert_eq!(labels(&axis), ["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"]);
        assert_eq!(axis.unlabelled.len(), 8 * 8 - 8 + 8 - 1 - 1 + 2);
        let wide = Axis::logarithmic_around(1e-100..=1e100, 6);
        assert!((3..=7).contains(&wide.labelled.len()), "{:?}", wide.labelled);
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 0.01, 9.1234, 1234.56, 1e-12, -2.5e-8, 1.0].map(short);
        assert_eq!(shown, ["0", "0.01", "9.12", "1235", "10⁻¹²", "-2.5×10⁻⁸", "1"]);
    }
}
