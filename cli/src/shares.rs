//! How much of each layer's gradient fixed-prediction lets through, as a table.

use predictive_coding::{FixedPrediction, Method, Network};

use crate::relaxing::title;
use crate::table::{percent, table};

/// What counts as nearly all of a gradient.
const NEARLY_ALL: f64 = 0.99;
/// Shares from here on, which only an eta that never settles gives, are written with an exponent.
const LARGE: f64 = 1e3;

/// What the iterations let through to each layer, and how many let nearly all of it through; nothing for
/// methods other than fixed-prediction, and for networks whose layers have no one share.
pub fn shares_table(method: &Method, network: &Network) -> Option<String> {
    let precisions = network.precisions();
    let Method::FixedPrediction(FixedPrediction { eta, .. }) = method else { return None };
    let hidden = (1..).zip(&precisions[..precisions.len() - 1]);
    let steepest = hidden.map(|(layer, precision)| eta.of_layer(layer) * precision).fold(0.0, f64::max);
    let enough = match network.iterations_for(method, NEARLY_ALL) {
        Some(n) => format!("{:.0}% in every layer needs {n} iterations", 100.0 * NEARLY_ALL),
        None if steepest > 1.0 => "eta times the precision is above 1, so the shares overshoot".into(),
        None => format!("{:.0}% in every layer needs too many iterations to count", 100.0 * NEARLY_ALL),
    };
    let row = |(layer, share): (usize, f64)| {
        let share = if share.abs() < LARGE { percent(share) } else { format!("{:.2e}%", 100.0 * share) };
        vec![layer.to_string(), share]
    };
    let rows: Vec<Vec<String>> = (1..).zip(network.shares(method)?).map(row).collect();
    let table = table(&["layer", "share of the gradient"], &rows);
    let title = title(method);
    Some(format!("{title}: {enough}\n{table}"))
}

#[cfg(test)]
mod tests {
    use predictive_coding::{Loss, Op};

    use super::*;

    fn chain(layers: usize) -> Network {
        Network::new(&[1], Loss::MSE, vec![vec![Op::Tanh]; layers]).unwrap()
    }

    fn lines(eta: f64, iterations: usize, layers: usize) -> Vec<String> {
        let text = shares_table(&FixedPrediction::new(eta, iterations).into(), &chain(layers)).unwrap();
        text.lines().map(str::to_string).collect()
    }

    #[test]
    fn tables_are_aligned_and_say_what_is_enough() {
        let lines = lines(0.1, 20, 5);
        assert_eq!(lines[0], "fixed-prediction (0.1, 20): 99% in every layer needs 98 iterations");
        assert_eq!(lines[4], "│     1 ┆                11.50% │");
        assert_eq!(lines[8], "│     5 ┆               100.00% │");
        assert_eq!(lines.len(), 10);
        assert!(lines[1..].iter().all(|line| line.chars().count() == lines[1].chars().count()), "{lines:#?}");
    }

    #[test]
    fn steps_that_never_get_there() {
        assert!(lines(1.5, 3, 2)[0].ends_with("so the shares overshoot"));
        assert_eq!(lines(1.5, 3, 2)[4], "│     1 ┆                75.00% │");
        assert!(lines(1e-300, 3, 2)[0].ends_with("too many iterations to count"));
        // 1 - (-2)^20.
        assert_eq!(lines(3.0, 21, 2)[4], "│     1 ┆              -1.05e8% │");
        assert!(shares_table(&Method::Exact, &chain(2)).is_none());
    }
}
