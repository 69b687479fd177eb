//! Whether sessions give what the reference gives.

use predictive_coding::{Error, Method, Network, Result, Session};
use rand_chacha::ChaCha8Rng;

use crate::case::{Case, climbs};
use crate::compare::{BOUND, Tensors, relative_error};
use crate::levels::{Form, ways};
use crate::naive::Step;

/// A tensor is judged only if rounding what goes in changes it by less than this.
pub const CONDITIONING: f64 = 5e-6;

/// How many times what perturbations change a tensor may be off.
const FAR: f64 = 4.0;

/// Asserts that a step ended as in the reference: with its loss, or with a divergence.
///
/// # Panics
/// If it did not.
pub fn assert_outcome(result: Result<f32>, session: &Session, step: &Step<f64>, what: &str) {
    match result {
        Ok(loss) => {
            assert!(!climbs(step, 1e-3), "{what}: a divergence was not reported");
            assert_eq!(loss.to_bits(), session.loss().to_bits(), "{what}");
        }
        Err(Error::Diverged(divergence)) => assert!(climbs(step, 0.0), "{what}: {divergence}"),
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Sums of the samples' energies, F_1 .. F_n.
pub fn energies(step: &Step<f64>) -> Vec<f64> {
    step.energies.iter().map(|samples| samples.iter().sum()).collect()
}

/// Sessions for batches of up to `batch` samples in these forms, in every way to compute a method.
///
/// # Panics
/// If one can not be planned.
pub fn sessions(network: &Network, batch: usize, method: &Method, forms: &[Form]) -> Vec<Session> {
    let each = forms.iter().flat_map(|form| ways(method).into_iter().map(|way| form.session(network, batch, way)));
    each.collect()
}

/// What the reference gives for a case.
pub struct Expected {
    step: Step<f64>,
    tensors: Tensors,
    /// How much each tensor changes as what goes in is rounded.
    conditioning: Vec<f64>,
}

impl Expected {
    /// Runs the reference on `case`, and on what it is when it is rounded.
    pub fn of(case: &Case, rng: &mut ChaCha8Rng) -> Expected {
        let step = case.reference();
        let mut tensors = case.tensors(&step);
        tensors.push(("energies".into(), energies(&step)));
        let conditioning = case.conditioning(&tensors, rng);
        Expected { step, tensors, conditioning }
    }
}

/// How many tensors were held against the reference's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judge {
    /// Tensors of the reference that were compared with those of each session.
    pub judged: usize,
    /// Those that were not, as rounding what goes in decides them.
    pub skipped: usize,
}

impl Judge {
    /// Takes a step in each session, and compares everything that it gives.
    ///
    /// # Panics
    /// If a tensor is further than [`BOUND`] from the reference's, or the step ended otherwise.
    pub fn step(&mut self, case: &Case, sessions: &mut [Session], rng: &mut ChaCha8Rng, what: &str) {
        self.compare(case, &Expected::of(case, rng), sessions, rng, what);
    }

    /// As [`step`](Self::step), with what is expected of the case.
    ///
    /// # Panics
    /// As [`step`](Self::step).
    pub fn compare(
        &mut self,
        case: &Case,
        Expected { step, tensors: want, conditioning }: &Expected,
        sessions: &mut [Session],
        rng: &mut ChaCha8Rng,
        what: &str,
    ) {
        let doubtful = conditioning.iter().filter(|&&change| change > CONDITIONING).count();
        if doubtful > 0 {
            let of = want.len();
            println!("{what}, {:?}: {doubtful} of {of} tensors skipped, rounding decides them", case.method);
        }
        self.judged += want.len() - doubtful;
        self.skipped += doubtful;
        let mut scrutiny = None;
        for session in sessions {
            let samples = case.samples();
            let what = format!("{what}, {samples} samples, {session:?}");
            session.record_energies(true).unwrap();
            let result = case.infer(session);
            assert_outcome(result, session, step, &what);
            assert_eq!(session.samples(), samples, "{what}");
            let mut got = case.results(session);
            got.push(("energies".into(), session.energies().to_vec()));
            let errors: Vec<f64> =
                got.iter().zip(want).map(|((_, got), (_, want))| relative_error(got, want)).collect();
            let off = |i: usize| errors[i] > BOUND && conditioning[i] <= CONDITIONING;
            let Some(first) = (0..errors.len()).find(|&i| off(i)) else { continue };
            // Either wrong, or a kink was crossed that the few perturbations did not cross.
            let scrutiny = scrutiny.get_or_insert_with(|| case.scrutiny(&case.tensors(step), rng));
            let explained = (0..scrutiny.len()).filter(|&i| off(i)).all(|i| errors[i] <= FAR * scrutiny[i]);
            assert!(
                explained,
                "{what}: {:.1e} in {}, conditioning {:.1e}, {:?}",
                errors[first], want[first].0, conditioning[first], case.network
            );
            println!("{what}: {:.1e} in {} is that of a kink", errors[first], want[first].0);
            self.skipped += 1;
        }
    }
}
