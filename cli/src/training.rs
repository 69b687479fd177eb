//! The training loop: forward, relax, gradients, optimiser, report.

use std::time::Instant;

use predictive_coding::data::epoch_rng;
use predictive_coding::{
    Batch, Dataset, Error, LearningRate, Method, Network, Optimizer, Options, Parameters, Progress, Quantity, Record,
    RecordKind, Session, Targets,
};

use crate::console::Failure;
use crate::descents::Descents;
use crate::machine::check_session;
use crate::ranks;

/// What to train, on what, by which method.
#[derive(Clone)]
pub struct Task<'a> {
    pub network: &'a Network,
    pub train: &'a Dataset,
    pub test: &'a Dataset,
    pub method: Method,
    pub options: Options,
    /// Samples of a step, at most those of the training set.
    pub batch: usize,
    pub epochs: u64,
    pub seed: u64,
    /// The learning rate of each step, if the optimiser's own does not hold.
    pub rate: Option<LearningRate>,
    /// The norm that gradients are scaled down to.
    pub clip: Option<f64>,
    /// Epochs in a row without a lower test loss after which the run ends.
    pub patience: Option<u64>,
    /// Whether an epoch ends before a batch that would be smaller than the others.
    pub whole_batches: bool,
    /// Whether a relaxation that climbs does not end the run, until numbers are no longer finite.
    pub follow_divergence: bool,
}

impl Task<'_> {
    pub fn steps_per_epoch(&self) -> u64 {
        match self.whole_batches {
            true => (self.train.len() / self.batch) as u64,
            false => self.train.len().div_ceil(self.batch) as u64,
        }
    }

    pub fn steps(&self) -> u64 {
        self.epochs.saturating_mul(self.steps_per_epoch())
    }

    /// Operations of a step.
    pub fn work(&self) -> u64 {
        self.network.flops(&self.method, self.batch).max(1)
    }
}

/// Loss and accuracy over a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Of the whole data set, by the network's reduction.
    pub loss: f64,
    /// Share of samples whose largest output is that of their label; NaN where targets are values.
    pub accuracy: f64,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    Stop,
}

/// Looks on while a run goes.
pub trait Watcher {
    /// After the gradients of a batch, before the optimiser's step.
    fn before_update(&mut self, _training: &Training, _batch: &Batch) -> Result<(), Failure> {
        Ok(())
    }

    /// When a step was stopped before its end: everything is as it was after the step before.
    fn stopped(&mut self, _training: &Training) -> Result<(), Failure> {
        Ok(())
    }

    /// After a step and, at the end of an epoch, its evaluation.
    fn after_step(&mut self, training: &Training) -> Result<Flow, Failure>;
}

/// A run under way.
pub struct Training<'a> {
    task: Task<'a>,
    session: Session,
    parameters: Parameters,
    /// The parameters before the last step.
    before: Parameters,
    optimizer: Box<dyn Optimizer>,
    progress: Progress,
    outputs: Vec<f32>,
    /// How the samples of the last step descended.
    descents: Option<Descents>,
    seconds: f64,
}

impl<'a> Training<'a> {
    /// A run that starts, or goes on, with these parameters and this progress.
    pub fn new(
        task: Task<'a>,
        parameters: Parameters,
        optimizer: Box<dyn Optimizer>,
        progress: Progress,
    ) -> Result<Self, Failure> {
        check_session(task.network, task.batch.div_ceil(ranks::size()), &task.method, &task.options)?;
        let session = ranks::session(task.network, task.batch, &task.method, task.options)?;
        let outputs = output_buffer(task.network, task.batch);
        let before = parameters.clone();
        Ok(Training { task, session, parameters, before, optimizer, progress, outputs, descents: None, seconds: 0.0 })
    }

    pub fn task(&self) -> &Task<'a> {
        &self.task
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How the samples of the last step descended, by strict.
    pub fn descents(&self) -> Option<Descents> {
        self.descents
    }

    /// Seconds of the steps alone, evaluations and reports not counted.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The measurement of the last step.
    pub fn latest(&self) -> Record {
        let train = self.progress.history.iter().rev().find(|record| record.kind == RecordKind::Train);
        let none =
            Record { step: 0, epoch: 0, kind: RecordKind::Train, loss: 0.0, accuracy: 0.0, shrunk: 0, skipped: 0 };
        train.copied().unwrap_or(none)
    }

    /// The evaluation that came with the last step, if it was the last of its epoch.
    pub fn evaluation(&self) -> Option<Record> {
        self.progress.history.last().copied().filter(|record| record.kind == RecordKind::Test)
    }

    /// Trains until the last epoch is done or `watcher` stops it.
    ///
    /// Fails if a relaxation diverges or a number is no longer finite: the parameters are then those of the last
    /// good step.
    pub fn run(&mut self, watcher: &mut dyn Watcher) -> Result<Flow, Failure> {
        let per_epoch = self.task.steps_per_epoch();
        while self.progress.step < self.task.steps() && !self.out_of_patience() {
            let epoch = self.progress.step / per_epoch + 1;
            let done = (self.progress.step % per_epoch) as usize;
            let dataset = self.task.train;
            let batches = dataset.batches(self.task.batch, &mut epoch_rng(self.task.seed, epoch));
            for batch in batches.skip(done).take(per_epoch as usize - done) {
                if self.step(epoch, &batch, watcher)? == Flow::Stop {
                    watcher.stopped(self)?;
                    return Ok(Flow::Stop);
                }
                if self.progress.step.is_multiple_of(per_epoch) {
                    let score = self.evaluate(self.task.test)?;
                    self.record(RecordKind::Test, score);
                }
                if watcher.after_step(self)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            }
        }
        Ok(Flow::Continue)
    }

    /// Whether the last epochs have all ended with a test loss that is not below those before.
    fn out_of_patience(&self) -> bool {
        let Some(patience) = self.task.patience else { return false };
        let tests = self.progress.history.iter().filter(|record| record.kind == RecordKind::Test);
        let losses: Vec<f64> = tests.map(|record| record.loss).collect();
        let Some(before) = losses.len().checked_sub(patience as usize).filter(|&before| before > 0) else {
            return false;
        };
        let best = losses[..before].iter().copied().fold(f64::INFINITY, f64::min);
        losses[before..].iter().all(|&loss| loss >= best)
    }

    fn step(&mut self, epoch: u64, batch: &Batch, watcher: &mut dyn Watcher) -> Result<Flow, Failure> {
        let step = self.progress.step + 1;
        if let Some(rate) = self.task.rate {
            let lr = rate.at(self.progress.step);
            let failed = |error| Failure::run(format!("step {step}, epoch {epoch}: {error}"));
            self.optimizer.set_lr(lr).map_err(failed)?;
        }
        self.before.values_mut().copy_from_slice(self.parameters.values());
        self.session.set_dropout_step(self.progress.step);
        let incremental = matches!(self.task.method, Method::Incremental(_));
        let started = Instant::now();
        let outcome = match incremental {
            true => self.session.learn(&mut self.parameters, &mut *self.optimizer, &batch.x, &batch.y),
            false => self.session.infer(&self.parameters, &batch.x, &batch.y),
        };
        let loss = match outcome {
            Err(Error::Diverged(_)) if self.task.follow_divergence => Ok(self.session.loss()),
            Err(Error::Stopped) => return Ok(Flow::Stop),
            outcome => outcome,
        };
        let loss = loss.map_err(|error| {
            let given = self.task.method.eta().is_some();
            let remedy = match (&error, &self.task.method) {
                (Error::Diverged(_), Method::Strict(_)) if given => ", or --eta auto, or --on-divergence shrink",
                (Error::Diverged(_), Method::ErrorBased(_)) if given => ", or --eta auto, or --on-divergence skip",
                _ => "",
            };
            Failure::run(format!("step {step}, epoch {epoch}: {error}{remedy}"))
        })?;
        if !loss.is_finite() || self.session.gradients().values().iter().any(|g| !g.is_finite()) {
            return Err(Failure::run(format!(
                "step {step}, epoch {epoch}: the loss is {loss}, and some gradients are not finite; try a smaller --lr"
            )));
        }
        self.seconds += started.elapsed().as_secs_f64();
        watcher.before_update(self, batch)?;

        let started = Instant::now();
        if !incremental {
            if let Some(clip) = self.task.clip {
                self.session.clip_gradients(clip);
            }
            self.optimizer.step(&mut self.parameters, self.session.gradients());
        }
        self.seconds += started.elapsed().as_secs_f64();
        if let Err(error) = self.parameters.check_finite() {
            std::mem::swap(&mut self.parameters, &mut self.before);
            return Err(Failure::run(format!(
                "step {step}, epoch {epoch}: after the step, {error}; try a smaller --lr"
            )));
        }

        self.descents = Descents::of(&self.session, &self.task.method);
        let correct = count_correct(&self.session, self.task.network, (&batch.y).into(), &mut self.outputs)?;
        let accuracy = correct.map_or(f64::NAN, |correct| correct as f64 / batch.samples() as f64);
        (self.progress.step, self.progress.epoch) = (step, epoch);
        self.record(RecordKind::Train, Score { loss: loss.into(), accuracy });
        Ok(Flow::Continue)
    }

    fn record(&mut self, kind: RecordKind, Score { loss, accuracy }: Score) {
        let Progress { step, epoch, .. } = self.progress;
        let descents = self.descents.filter(|_| kind == RecordKind::Train);
        let count = |of: fn(Descents) -> usize| descents.map_or(0, of) as u64;
        let (shrunk, skipped) = (count(|descents| descents.shrunk), count(|descents| descents.diverged));
        self.progress.history.push(Record { step, epoch, kind, loss, accuracy, shrunk, skipped });
    }

    /// Samples that relaxed again by a smaller step, and those that were left out, in all steps.
    pub fn diverged(&self) -> [u64; 2] {
        self.progress
            .history
            .iter()
            .fold([0; 2], |[shrunk, skipped], record| [shrunk + record.shrunk, skipped + record.skipped])
    }

    /// Loss and accuracy of the current parameters.
    pub fn evaluate(&mut self, dataset: &Dataset) -> Result<Score, Failure> {
        evaluate(&mut self.session, self.task.network, &self.parameters, dataset, self.task.batch)
    }
}

/// Loss and accuracy of `parameters` over a data set, `batch` samples at a time, which `session`
/// takes.
pub fn evaluate(
    session: &mut Session,
    network: &Network,
    parameters: &Parameters,
    dataset: &Dataset,
    batch: usize,
) -> Result<Score, Failure> {
    let mut outputs = output_buffer(network, batch);
    let (mut losses, mut correct) = (Vec::new(), Some(0));
    for (x, y) in dataset.chunks(batch) {
        let loss = session.forward(parameters, x, y).map_err(Failure::run)?;
        losses.push((x.len() / network.input_shape().iter().product::<usize>(), f64::from(loss)));
        correct = correct.zip(count_correct(session, network, y, &mut outputs)?).map(|(all, more)| all + more);
    }
    let loss = network.loss().of_batches(losses.into_iter());
    Ok(Score { loss, accuracy: correct.map_or(f64::NAN, |correct| correct as f64 / dataset.len() as f64) })
}

/// Room for the outputs of a batch.
fn output_buffer(network: &Network, batch: usize) -> Vec<f32> {
    vec![0.0; batch * network.output_shape().iter().product::<usize>()]
}

/// How many samples of the session's last call, on all ranks, have their largest output at their label; none if they have
/// no labels.
fn count_correct(
    session: &Session,
    network: &Network,
    targets: Targets<'_>,
    outputs: &mut [f32],
) -> Result<Option<usize>, Failure> {
    let Targets::Labels(labels) = targets else { return Ok(None) };
    let classes = network.output_shape().iter().product::<usize>();
    let labels = &labels[session.own_samples()];
    let outputs = &mut outputs[..labels.len() * classes];
    session.read(Quantity::Activation, network.layers().len(), outputs).map_err(Failure::run)?;
    let pairs = outputs.chunks(classes).zip(labels);
    let own = pairs.filter(|(outputs, label)| largest(outputs) as i64 == **label).count();
    let all =
        if session.is_shared() { ranks::gather([own as f64]).iter().map(|[count]| *count as usize).sum() } else { own };
    Ok(Some(all))
}

/// The index of the largest value, the first on a tie.
pub fn largest(values: &[f32]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest_wins() {
        assert_eq!(largest(&[0.0, 2.0, 2.0, -1.0]), 1);
        assert_eq!(largest(&[-3.0]), 0);
        assert_eq!(largest(&[f32::NEG_INFINITY, -3.0]), 1);
    }
}
