//! One step on a random network: what to run, what to expect, and how well that is conditioned.

use predictive_coding::{Method, Network, Parameters, Quantity, Result, Session, Start, Strict};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::compare::{self, Tensors, relative_error};
use crate::naive::{Begin, Naive, Step, dense};
use crate::random::{self, OwnedTargets};

/// Perturbed runs that judge how well a case is conditioned, and the standard deviation of the perturbations: a few
/// roundings of float32.
const PERTURBED: (usize, f64) = (4, 2e-7);

/// Those that look once more, for a kink that the sums of a wide layer, with many more roundings, may cross.
const PERTURBED_MORE: (usize, f64) = (64, 1e-6);

/// What a step takes.
#[derive(Clone)]
pub struct Case {
    /// The network.
    pub network: Network,
    /// Its parameters.
    pub parameters: Parameters,
    /// Exact, fixed-prediction or strict.
    pub method: Method,
    /// `[samples, input shape]`.
    pub x: Vec<f32>,
    /// The targets.
    pub y: OwnedTargets,
    /// Where the layers start in a strict relaxation.
    pub begin: Vec<Begin<f32>>,
}

impl Case {
    /// Random parameters and data for `network`, starting at v-hat.
    pub fn random(rng: &mut ChaCha8Rng, network: &Network, method: impl Into<Method>, samples: usize) -> Case {
        let parameters = random::parameters(rng, network);
        let (x, y) = random::batch(rng, network, samples);
        Case { network: network.clone(), parameters, method: method.into(), x, y, begin: vec![] }
    }

    /// Other data of `samples` samples for the same network, parameters and method.
    pub fn with_batch(&self, rng: &mut ChaCha8Rng, samples: usize) -> Case {
        let (x, y) = random::batch(rng, &self.network, samples);
        Case { x, y, begin: vec![], ..self.clone() }
    }

    /// Lets some layers start away from v-hat, if the method is strict.
    pub fn with_random_begin(mut self, rng: &mut ChaCha8Rng) -> Case {
        let centred = |strict: &Strict| strict.nudge.is_some_and(|nudge| nudge.centred);
        if !matches!(&self.method, Method::Strict(strict) if !centred(strict)) {
            return self;
        }
        let layers = self.network.layers();
        self.begin = layers[..rng.random_range(0..layers.len())]
            .iter()
            .map(|layer| {
                let len = self.samples() * layer.output_shape().iter().product::<usize>();
                match rng.random_range(0..3) {
                    0 => Begin::Activation,
                    1 => Begin::Deviation(random::values(rng, len)),
                    _ => Begin::Belief(random::values(rng, len)),
                }
            })
            .collect();
        self
    }

    /// Samples of the batch.
    pub fn samples(&self) -> usize {
        self.x.len() / self.network.input_shape().iter().product::<usize>()
    }

    /// One step of `session`, which was planned for this network and method.
    pub fn infer(&self, session: &mut Session) -> Result<f32> {
        let start: Vec<Start> = self
            .begin
            .iter()
            .map(|begin| match begin {
                Begin::Activation => Start::Activation,
                Begin::Deviation(u) => Start::Deviation(u),
                Begin::Belief(v) => Start::Belief(v),
            })
            .collect();
        session.infer_from(&self.parameters, &self.x, self.y.view(), &start)
    }

    /// Every bit that one step of `session` gives.
    pub fn bits(&self, session: &mut Session) -> Vec<u64> {
        session.record_energies(true).unwrap();
        let loss = match self.infer(session) {
            Ok(loss) => loss.to_bits().into(),
            Err(divergence) => divergence.to_string().bytes().map(u64::from).sum(),
        };
        let last = self.network.layers().len();
        let mut bits = vec![loss];
        let mut add = |values: &[f32]| bits.extend(values.iter().map(|v| u64::from(v.to_bits())));
        for l in 1..=last {
            add(&session.get(Quantity::Activation, l).unwrap());
            add(&session.get(Quantity::Error, l).unwrap());
        }
        for l in 1..last {
            add(&session.get(Quantity::Deviation, l).unwrap());
            add(&session.get(Quantity::Belief, l).unwrap());
        }
        add(session.gradients().values());
        bits.extend(session.energies().iter().map(|energy| energy.to_bits()));
        bits
    }

    /// What the reference computes.
    pub fn reference(&self) -> Step<f64> {
        self.perturbed(|x| x, false)
    }

    /// The tensors of [`reference`](Self::reference).
    pub fn tensors(&self, step: &Step<f64>) -> Tensors {
        compare::of_step(step, &self.network)
    }

    /// How much each of the reference's tensors changes, as a relative error, when everything that
    /// goes in is perturbed by a few roundings of float32. Where a ReLU or a pool decides by less
    /// than that, or where a sum cancels, this is large, and float32 may rightly end elsewhere.
    pub fn conditioning(&self, want: &Tensors, rng: &mut ChaCha8Rng) -> Vec<f64> {
        self.sensitivity(PERTURBED, false, want, rng)
    }

    /// As [`conditioning`](Self::conditioning), of more and larger perturbations, of the sums of products too: those of
    /// neighbouring pixels may differ by less than their roundings, and by a share that no change of weights changes.
    pub fn scrutiny(&self, want: &Tensors, rng: &mut ChaCha8Rng) -> Vec<f64> {
        self.sensitivity(PERTURBED_MORE, true, want, rng)
    }

    fn sensitivity(
        &self,
        (runs, deviation): (usize, f64),
        sums: bool,
        want: &Tensors,
        rng: &mut ChaCha8Rng,
    ) -> Vec<f64> {
        let changes = |seed: u64| -> Vec<f64> {
            let mut rng = random::generator(seed);
            // Uniform with that standard deviation.
            let width = deviation * 3f64.sqrt();
            let step = self.perturbed(|x| x * (1.0 + rng.random_range(-width..width)), sums);
            want.iter().zip(self.tensors(&step)).map(|((_, want), (_, got))| relative_error(&got, want)).collect()
        };
        let seeds: Vec<u64> = (0..runs).map(|_| rng.random()).collect();
        let mut worst = vec![0.0; want.len()];
        std::thread::scope(|scope| {
            let runs: Vec<_> = seeds.into_iter().map(|seed| scope.spawn(move || changes(seed))).collect();
            for run in runs {
                let changes = run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                worst.iter_mut().zip(changes).for_each(|(worst, change)| *worst = f64::max(*worst, change));
            }
        });
        worst
    }

    /// `sums`: whether the sums of products are changed as well.
    fn perturbed(&self, mut change: impl FnMut(f64) -> f64, sums: bool) -> Step<f64> {
        let mut changed = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| change(x.into())).collect() };
        let mut naive = Naive::with_values(&self.network, &changed(self.parameters.values()));
        let x = changed(&self.x);
        let begin: Vec<_> = self
            .begin
            .iter()
            .map(|begin| match begin {
                Begin::Activation => Begin::Activation,
                Begin::Deviation(u) => Begin::Deviation(changed(u)),
                Begin::Belief(v) => Begin::Belief(changed(v)),
            })
            .collect();
        let y: Vec<f64> = dense(self.y.view(), self.network.output_shape().iter().product());
        let y: Vec<f64> = y.into_iter().map(&mut change).collect();
        if sums {
            naive.round(|| change(1.0) - 1.0);
        }
        naive.step(&self.method, &x, &y, &begin)
    }

    /// The tensors that `session` holds after [`infer`](Self::infer).
    pub fn results(&self, session: &Session) -> Tensors {
        compare::of_session(session, &self.network)
    }
}

/// Whether the energy of any sample rises above its start by more than a share of that, or is not finite, and is not back at
/// the end, where that is known.
pub fn climbs(step: &Step<f64>, share: f64) -> bool {
    let rises = |f: f64, start: f64| !f.is_finite() || (!step.may_rise && f - start > share * start.abs());
    let climbs = |energies: &[Vec<f64>], sample: usize| {
        let start = energies[0][sample];
        let ends_above = step.end.as_ref().is_none_or(|end| rises(end[sample], start));
        ends_above && energies.iter().any(|energy| rises(energy[sample], start))
    };
    let mut sides = [&step.energies, &step.opposite].into_iter().filter(|energies| !energies.is_empty());
    sides.any(|energies| (0..energies[0].len()).any(|sample| climbs(energies, sample)))
}
