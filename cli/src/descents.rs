//! How the samples of a batch descended, in a few numbers.

use std::fmt;

use predictive_coding::{Descending, Method, Session};
use serde_json::{Value, json};

use crate::ranks;

/// What is told of a relaxation; ranges are the smallest and the largest of the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descents {
    samples: usize,
    /// The most that a sample took.
    pub iterations: usize,
    /// Samples that diverged.
    pub diverged: usize,
    /// Samples that had diverged, and then ended well by a smaller step.
    pub shrunk: usize,
    /// Where it was estimated.
    pub lambda_max: Option<[f64; 2]>,
    /// The step size as a share of the largest stable one, likewise.
    pub share_of_limit: Option<[f64; 2]>,
    /// Where samples took steps of that size.
    pub eta: Option<[f64; 2]>,
}

impl Descents {
    /// Of the last call of a session by this method, on all ranks, if its samples descended.
    pub fn of(session: &Session, method: &Method) -> Option<Self> {
        let own = Self::summarize(session.descents(), method.automatic_products().is_some());
        if session.is_shared() { Self::join(ranks::gather(Self::told(own))) } else { own }
    }

    /// As numbers; a range that is not there is one of NaN.
    fn told(own: Option<Self>) -> [f64; 10] {
        let Some(Descents { samples, iterations, diverged, shrunk, lambda_max, share_of_limit, eta }) = own else {
            return [0.0; 10];
        };
        let counts = [samples, iterations, diverged, shrunk].map(|count| count as f64);
        let ranges = [lambda_max, share_of_limit, eta].map(|range| range.unwrap_or([f64::NAN; 2]));
        let mut told = [0.0; 10];
        told.iter_mut().zip(counts.iter().chain(ranges.as_flattened())).for_each(|(told, number)| *told = *number);
        told
    }

    /// Those of several ranks as one.
    fn join(all: Vec<[f64; 10]>) -> Option<Self> {
        let all = all.into_iter().filter(|told| told[0] > 0.0);
        all.map(|[samples, iterations, diverged, shrunk, ranges @ ..]| {
            let range = |i: usize| widen(widen(None, Some(ranges[2 * i])), Some(ranges[2 * i + 1]));
            Descents {
                samples: samples as usize,
                iterations: iterations as usize,
                diverged: diverged as usize,
                shrunk: shrunk as usize,
                lambda_max: range(0),
                share_of_limit: range(1),
                eta: range(2),
            }
        })
        .reduce(|a, b| {
            let both = |of: fn(&Self) -> Option<[f64; 2]>| {
                of(&b).into_iter().flatten().fold(of(&a), |range, end| widen(range, Some(end)))
            };
            Descents {
                samples: a.samples + b.samples,
                iterations: a.iterations.max(b.iterations),
                diverged: a.diverged + b.diverged,
                shrunk: a.shrunk + b.shrunk,
                lambda_max: both(|descents| descents.lambda_max),
                share_of_limit: both(|descents| descents.share_of_limit),
                eta: both(|descents| descents.eta),
            }
        })
    }

    fn summarize<'a>(descents: impl Iterator<Item = &'a Descending>, automatic: bool) -> Option<Self> {
        let none = Descents {
            samples: 0,
            iterations: 0,
            diverged: 0,
            shrunk: 0,
            lambda_max: None,
            share_of_limit: None,
            eta: None,
        };
        let all = descents.fold(none, |all, one| Descents {
            samples: all.samples + 1,
            iterations: all.iterations.max(one.iterations),
            diverged: all.diverged + usize::from(one.diverged),
            shrunk: all.shrunk + usize::from(one.shrunk && !one.diverged),
            lambda_max: widen(all.lambda_max, one.lambda_max),
            share_of_limit: widen(all.share_of_limit, one.share_of_limit()),
            // Without an estimate, as in a network of one layer, no automatic step was taken.
            eta: widen(all.eta, Some(one.eta).filter(|_| !automatic || one.lambda_max.is_some())),
        });
        Some(all).filter(|all| all.samples > 0)
    }

    pub fn to_json(self) -> Value {
        json!({
            "iterations_used": self.iterations,
            "diverged": self.diverged,
            "shrunk": self.shrunk,
            "lambda_max": self.lambda_max,
            "share_of_limit": self.share_of_limit,
            "eta_range": self.eta,
        })
    }
}

/// The range with one more value in it, if there is one and it is a number.
fn widen(range: Option<[f64; 2]>, value: Option<f64>) -> Option<[f64; 2]> {
    let Some(value) = value.filter(|value| !value.is_nan()) else { return range };
    let [low, high] = range.unwrap_or([value; 2]);
    Some([low.min(value), high.max(value)])
}

/// The number to three digits.
fn short(value: f64) -> f64 {
    format!("{value:.2e}").parse().unwrap_or(value)
}

impl fmt::Display for Descents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, range) in [("eta", self.eta), ("lambda_max", self.lambda_max)] {
            if let Some([low, high]) = range {
                write!(f, "{name} {} to {}, ", short(low), short(high))?;
            }
        }
        if let Some([_, most]) = self.share_of_limit {
            write!(f, "steps at most {} of the limit, ", short(most))?;
        }
        write!(f, "{} iterations, {} of {} samples diverged", self.iterations, self.diverged, self.samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(eta: f64, lambda_max: Option<f64>, iterations: usize, diverged: bool) -> Descending {
        Descending { eta, lambda_max, iterations, diverged, shrunk: false }
    }

    #[test]
    fn samples_are_counted_and_ranged() {
        let samples = [
            sample(0.25, Some(7.2109), 9, false),
            sample(0.5, Some(3.6), 20, true),
            sample(0.125, Some(f64::NAN), 20, true),
        ];
        let all = Descents::summarize(samples.iter(), true).unwrap();
        let told = [json!(all.iterations), json!(all.diverged), json!(all.lambda_max), json!(all.eta)];
        assert_eq!(told, [json!(20), json!(2), json!([3.6, 7.2109]), json!([0.125, 0.5])]);
        assert_eq!(json!(all.share_of_limit), json!([0.5 * 0.5 * 3.6, 0.5 * 0.25 * 7.2109]));
        let text = "eta 0.125 to 0.5, lambda_max 3.6 to 7.21, steps at most 0.901 of the limit, 20 iterations, 2 of 3 \
                    samples diverged";
        assert_eq!(all.to_string(), text);
    }

    #[test]
    fn what_was_not_done_is_not_told() {
        assert_eq!(Descents::summarize([].iter(), false), None);
        let samples = [sample(0.1, None, 5, false)];
        let [given, automatic] = [false, true].map(|automatic| Descents::summarize(samples.iter(), automatic).unwrap());
        assert_eq!((given.lambda_max, given.eta), (None, Some([0.1, 0.1])));
        assert_eq!((automatic.lambda_max, automatic.eta), (None, None));
        assert_eq!(automatic.to_string(), "5 iterations, 0 of 1 samples diverged");
    }
}
