//! How much of each layer's gradient fixed-prediction lets through.
//!
//! Its errors, times the layers' precisions p_l, are c_l times backpropagation's, with c_L = 1, and in every iteration,
//! from 0,
//!
//! ```text
//! c_l <- (1 - eta p_l) c_l + eta p_l c_{l+1}      all l < L at once
//! ```
//!
//! Let the hidden layers have one precision, and eta stand for eta p. For eta <= 1 that is the chance that something that starts at the output and comes down a layer with
//! probability eta per iteration has come as far as l. What comes down in m + k iterations comes down
//! some layers in m and the others in k. Stretches of iterations can thus be joined, so that any number
//! of them takes a logarithm of joints; these are identities of polynomials in eta, valid above 1 too. Where
//! precisions differ, the same is done with the matrix of the recursion, or it is iterated if that is shorter.

/// p_l epsilon_l and p_l (v-hat_l - v_l) after n iterations as multiples of delta_l, for l = 1..=L: c_l after n - 1
/// iterations and after n. `rates` are eta p_l of all layers; the last one's does not matter.
pub(crate) fn shares(rates: &[f64], iterations: usize) -> [Vec<f64>; 2] {
    if let Some(rate) = common(rates) {
        return shares_of_one(rates.len(), rate, iterations);
    }
    let rates = from_output(rates);
    let errors = recursion(&rates, iterations.saturating_sub(1));
    let deviations = recur(&rates, &errors);
    [errors, deviations].map(|c| c.into_iter().rev().collect())
}

/// The rate of all hidden layers, if they have the same.
fn common(rates: &[f64]) -> Option<f64> {
    let hidden = &rates[..rates.len() - 1];
    let first = hidden.first().copied().unwrap_or(1.0);
    hidden.iter().all(|&rate| rate == first).then_some(first)
}

/// The rates of the hidden layers, by the distance from the output.
fn from_output(rates: &[f64]) -> Vec<f64> {
    rates.iter().rev().skip(1).copied().collect()
}

/// One iteration of the recursion with a rate of its own for each layer below the output.
fn recur(rates: &[f64], c: &[f64]) -> Vec<f64> {
    let below = rates.iter().zip(c.windows(2)).map(|(rate, c)| (1.0 - rate) * c[1] + rate * c[0]);
    std::iter::once(1.0).chain(below).collect()
}

/// c after so many iterations.
fn recursion(rates: &[f64], iterations: usize) -> Vec<f64> {
    let layers = rates.len() + 1;
    let squarings = iterations.checked_ilog2().unwrap_or(0) as usize;
    if iterations / layers <= 2 * squarings * layers {
        return (0..iterations).fold(none(layers), |c, _| recur(rates, &c));
    }
    // Row i of a power is what c_i takes of each c_j, j <= i.
    let mut power: Vec<Vec<f64>> = (0..layers)
        .map(|i| {
            let mut row = vec![0.0; i + 1];
            row[i] = if i == 0 { 1.0 } else { 1.0 - rates[i - 1] };
            if i > 0 {
                row[i - 1] = rates[i - 1];
            }
            row
        })
        .collect();
    let mut c = none(layers);
    let mut left = iterations;
    loop {
        if left % 2 == 1 {
            c = power.iter().map(|row| row.iter().zip(&c).map(|(a, c)| a * c).sum()).collect();
        }
        left /= 2;
        if left == 0 {
            return c;
        }
        let element = |i: usize, j: usize| (j..=i).map(|k| power[i][k] * power[k][j]).sum();
        power = (0..layers).map(|i| (0..=i).map(|j| element(i, j)).collect()).collect();
        // Where all c are 1 they stay so: rounding must not add up.
        // Where they overshoot, terms of both signs cancel, and sums tell nothing.
        for row in power.iter_mut().filter(|_| rates.iter().all(|&rate| rate <= 1.0)) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|share| *share /= sum);
        }
    }
}

/// [`shares`] where all hidden layers have the same rate.
fn shares_of_one(layers: usize, eta: f64, iterations: usize) -> [Vec<f64>; 2] {
    let single = single(layers, eta);
    let (mut errors, mut power) = (none(layers), single.clone());
    let mut left = iterations.saturating_sub(1);
    while left > 0 {
        if left % 2 == 1 {
            errors = joined(&errors, &power);
        }
        left /= 2;
        power = joined(&power, &power);
    }
    let deviations = joined(&errors, &single);
    [errors, deviations].map(|c| c.into_iter().rev().collect())
}

/// The least n after which p_l epsilon_l is at least `share` of delta_l for every l. None if there is none,
/// or none that can be counted, and where c_l overshoots, which it does for eta p_l > 1.
pub(crate) fn iterations_for(rates: &[f64], share: f64) -> Option<usize> {
    if let Some(rate) = common(rates) {
        return iterations_of_one(rates.len(), rate, share);
    }
    let rates = from_output(rates);
    if rates.iter().any(|&rate| rate > 1.0) {
        return None;
    }
    let reaches = |iterations: usize| recursion(&rates, iterations).last().is_none_or(|&lowest| lowest >= share);
    // More iterations never let less through.
    let enough = (0..usize::BITS - 1).map(|exponent| 1 << exponent).find(|&iterations| reaches(iterations))?;
    let (mut too_few, mut enough) = (enough / 2, enough);
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        *(if reaches(middle) { &mut enough } else { &mut too_few }) = middle;
    }
    Some(enough + 1)
}

/// [`iterations_for`] where all hidden layers have the same rate.
fn iterations_of_one(layers: usize, eta: f64, share: f64) -> Option<usize> {
    // The lowest layer gets least.
    let reaches = |c: &[f64]| c.last().is_none_or(|&lowest| lowest >= share);
    let mut short = none(layers);
    if reaches(&short) {
        return Some(1);
    }
    if eta > 1.0 {
        return None;
    }
    // After 1, 2, 4, .. iterations.
    let mut powers = vec![single(layers, eta)];
    while let Some(power) = powers.last().filter(|power| !reaches(power)) {
        if powers.len() as u32 == usize::BITS - 1 {
            return None;
        }
        powers.push(joined(power, power));
    }
    // The most iterations that are too few.
    let mut too_few = 0;
    for (exponent, power) in powers.iter().enumerate().rev() {
        let longer = joined(&short, power);
        if !reaches(&longer) {
            short = longer;
            too_few += 1 << exponent;
        }
    }
    // One more reaches it, and n iterations use the errors that n - 1 have left.
    Some(too_few + 2)
}

/// c after no iteration, by the distance from the output.
fn none(layers: usize) -> Vec<f64> {
    (0..layers).map(|below| if below == 0 { 1.0 } else { 0.0 }).collect()
}

/// c after one iteration.
fn single(layers: usize, eta: f64) -> Vec<f64> {
    [1.0, eta].into_iter().chain(std::iter::repeat(0.0)).take(layers).collect()
}

/// c after the iterations of `a` and `b` together. Neither a small c nor one near 1 loses digits: for
/// eta <= 1 all terms are positive.
fn joined(a: &[f64], b: &[f64]) -> Vec<f64> {
    let share = |below: usize| (0..below).map(|i| (a[i] - a[i + 1]) * b[below - i]).sum::<f64>() + a[below];
    (0..a.len()).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(got: &[f64], want: &[f64], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-12 * want.abs(), "{what}: {got}, expected {want}");
        }
    }

    /// c after so many iterations of the recursion, as it is written.
    fn iterated(layers: usize, eta: f64, iterations: usize) -> Vec<f64> {
        let mut c = vec![0.0; layers];
        c[layers - 1] = 1.0;
        for _ in 0..iterations {
            // Upwards, so that each layer still finds the one above as it was.
            for l in 0..layers - 1 {
                c[l] = (1.0 - eta) * c[l] + eta * c[l + 1];
            }
        }
        c
    }

    #[test]
    fn shares_are_those_of_the_recursion() {
        for layers in [1, 2, 3, 5, 12] {
            for eta in [1e-3, 0.1, 0.25, 0.5, 0.9, 1.0, 1.25, 2.0, 3.0] {
                for n in (1..=20).chain([33, 64, 100]) {
                    let [errors, deviations] = shares_of_one(layers, eta, n);
                    let what = format!("{layers} layers, eta {eta}, n {n}");
                    for (got, want) in [(errors, iterated(layers, eta, n - 1)), (deviations, iterated(layers, eta, n))]
                    {
                        // Above 1 the recursion itself adds what has different signs.
                        let scale = want.iter().fold(1.0, |scale, c| f64::max(scale, c.abs()));
                        for (got, want) in got.iter().zip(&want) {
                            assert!((got - want).abs() <= 1e-12 * scale, "{what}: {got}, expected {want}");
                            assert!(eta > 1.0 || (got - want).abs() <= 1e-12 * want, "{what}: {got}, expected {want}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn shares_by_hand() {
        // The chance of at least so many heads in 3 and in 4 throws.
        let [errors, deviations] = shares_of_one(4, 0.5, 4);
        assert_close(&errors, &[1.0 / 8.0, 4.0 / 8.0, 7.0 / 8.0, 1.0], "errors");
        assert_close(&deviations, &[5.0 / 16.0, 11.0 / 16.0, 15.0 / 16.0, 1.0], "deviations");
        // One layer below the output: 1 - (1 - eta)^(n - 1). Two below: what is left of the chance of at most one.
        for (eta, n) in [(0.1f64, 20), (0.3, 7), (0.01, 500), (1.5, 9)] {
            let (kept, tries) = (1.0 - eta, n as i32 - 1);
            let one = 1.0 - kept.powi(tries);
            let two = one - f64::from(tries) * eta * kept.powi(tries - 1);
            assert_close(&shares_of_one(3, eta, n)[0], &[two, one, 1.0], &format!("eta {eta}, n {n}"));
        }
        // At least 4 of 19 at 0.1, as a sum of exact fractions.
        assert_close(&shares_of_one(5, 0.1, 20)[0][..1], &[0.114_997_557_804_360_74], "5 layers");
        // 19 choose 4 ways, and so rarely that nothing else counts: no digit is lost to 1.
        let rare = shares_of_one(5, 1e-15, 20)[0][0];
        assert!((rare / (3876.0 * 1e-60) - 1.0).abs() < 1e-12, "{rare}");
        // At eta 1 errors come down one layer per iteration.
        assert_eq!(shares_of_one(4, 1.0, 3)[0], [0.0, 1.0, 1.0, 1.0]);
        assert_eq!(shares_of_one(4, 1.0, 4)[0], [1.0; 4]);
        assert_eq!(shares_of_one(1, 0.1, 1), [[1.0], [1.0]]);
        assert_eq!(shares_of_one(3, 0.1, 1)[0], [0.0, 0.0, 1.0]);
    }

    #[test]
    fn any_number_of_iterations_takes_no_time() {
        let [errors, _] = shares_of_one(20, 1e-9, usize::MAX);
        assert_close(&errors, &[1.0; 20], "settled");
        // 1 - (1 - eta)^m of eta = 1 / m is 1 - 1/e, but for 1/(2em).
        let c = shares_of_one(2, 1e-12, 1_000_000_000_001)[0][0];
        assert!((c - (1.0 - (-1f64).exp())).abs() < 1e-12, "{c}");
    }

    #[test]
    fn the_least_number_of_iterations() {
        for layers in 1..=8 {
            for eta in [0.05, 0.1, 0.3, 0.7, 1.0] {
                for share in [0.01, 0.5, 0.9, 0.99, 0.999_999] {
                    let least = (1..).find(|&n| iterated(layers, eta, n - 1).iter().all(|&c| c >= share));
                    assert_eq!(
                        iterations_of_one(layers, eta, share),
                        least,
                        "{layers} layers, eta {eta}, share {share}"
                    );
                }
            }
        }
        // 1/2^7 is the first below 0.01.
        assert_eq!(iterations_of_one(2, 0.5, 0.99), Some(8));
        assert_eq!(iterations_of_one(5, 0.1, 0.99), Some(98));
        assert_eq!(iterations_of_one(6, 1.0, 0.99), Some(6));
    }

    /// c after so many iterations, layer by layer from the lowest, as it is written.
    fn iterated_with(rates: &[f64], iterations: usize) -> Vec<f64> {
        let mut c = vec![0.0; rates.len()];
        c[rates.len() - 1] = 1.0;
        for _ in 0..iterations {
            for l in 0..rates.len() - 1 {
                c[l] = (1.0 - rates[l]) * c[l] + rates[l] * c[l + 1];
            }
        }
        c
    }

    #[test]
    fn rates_of_their_own() {
        let precisions = [[0.5, 2.0, 1.0, 1.0], [3.0, 0.25, 0.25, 7.0], [2.0, 2.0, 2.0, 1.0], [1.0, 1.0, 0.5, 1.0]];
        for precisions in &precisions {
            for eta in [0.01, 0.1, 0.3] {
                let rates = precisions.map(|precision| eta * precision);
                for n in (1..=12).chain([50, 400, 3000]) {
                    let what = format!("{rates:?}, n {n}");
                    let [errors, deviations] = shares(&rates, n);
                    assert_close(&errors, &iterated_with(&rates, n - 1), &what);
                    assert_close(&deviations, &iterated_with(&rates, n), &what);
                }
                for share in [0.1, 0.99] {
                    let reached = |n: &usize| iterated_with(&rates, n - 1).iter().all(|&c| c >= share);
                    assert_eq!(iterations_for(&rates, share), (1..).find(reached), "{rates:?}");
                }
            }
        }
        assert_eq!(iterations_for(&[1.2, 0.6, 1.0], 0.5), None);
        assert_close(&shares(&[2e-9, 1e-9, 1.0], usize::MAX)[0], &[1.0; 3], "settled");
    }

    #[test]
    fn steps_that_are_tiny_or_overshoot() {
        // (1 - eta)^m <= 0.01.
        let m = 0.01f64.ln() / (-1e-9f64).ln_1p();
        assert_eq!(iterations_of_one(2, 1e-9, 0.99), Some(m.ceil() as usize + 1));
        assert_eq!(iterations_of_one(2, 1e-300, 0.99), None);
        assert_eq!(iterations_of_one(2, 0.5, 1.1), None);
        assert_eq!(iterations_of_one(2, 1.5, 0.99), None);
        // The output alone has its error from the start.
        assert_eq!(iterations_of_one(1, 1.5, 0.99), Some(1));
        assert_eq!(iterations_of_one(2, 0.5, 0.0), Some(1));
    }
}
