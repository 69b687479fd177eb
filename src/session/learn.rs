//! A step of learning: inference and the optimiser, which for incremental steps in every iteration.

use predictive_coding_kernels::Buffer;

use super::Session;
use crate::error::{Error, Result};
use crate::group::Conditions;
use crate::loss::Targets;
use crate::method::{Incremental, Method};
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::plan::{Plan, Step};
use crate::product::Weights;
use crate::sums::for_each_block;

/// Parameters on their way through the iterations of a call.
#[derive(Clone)]
pub(super) struct Changing {
    /// The sum of the optimiser's steps.
    change: Parameters,
    /// The first parameters and that.
    current: Parameters,
    /// The change, packed for forward products.
    packed: Buffer,
}

impl Changing {
    pub(super) fn new(plan: &Plan, network: &Network) -> Self {
        let change = Parameters::zeros(network.parameters().clone());
        Changing { current: change.clone(), change, packed: Buffer::zeros(plan.sizes.packed) }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.change.values()) + size_of_val(self.current.values()) + self.packed.bytes()
    }

    fn pack(&mut self, plan: &Plan) {
        for step in &plan.steps {
            match step {
                Step::Product(product) => product.pack_forward((&self.change).into(), &mut self.packed),
                Step::Affine(affine) => affine.pack((&self.change).into(), &mut self.packed),
                Step::Dropout(_) | Step::Local(_) => {}
            }
        }
    }

    fn add_change(&mut self, first: &Parameters) {
        let (first, change) = (first.values(), self.change.values());
        for_each_block(self.current.values_mut(), |start, current| {
            let values = first[start..].iter().zip(&change[start..]);
            current.iter_mut().zip(values).for_each(|(current, (first, change))| *current = first + change);
        });
    }
}

impl Session {
    /// One step of learning: [`infer`](Self::infer) and a step of the optimiser. For
    /// [`Incremental`](crate::Incremental) the optimiser steps in every iteration. Returns the loss of the forward pass.
    ///
    /// ```
    /// use predictive_coding::{Adam, Linear, Loss, Network, Op, Options, Session, Strict};
    ///
    /// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
    /// let mut parameters = network.initialize(1);
    /// let mut adam = Adam::new(&parameters, 1e-2);
    /// let mut session = Session::new(&network, 1, Strict::new(0.1, 20), Options::default())?;
    /// let before = session.learn(&mut parameters, &mut adam, &[0.5, -0.5], &[1.0f32])?;
    /// assert!(session.learn(&mut parameters, &mut adam, &[0.5, -0.5], &[1.0f32])? < before);
    /// # Ok::<(), predictive_coding::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`infer`](Self::infer). The parameters are then what they were. The optimiser of incremental may have stepped, and
    /// is best made anew.
    ///
    /// # Panics
    /// If the optimiser was made for other parameters.
    pub fn learn<'a>(
        &mut self,
        parameters: &mut Parameters,
        optimizer: &mut dyn Optimizer,
        x: &[f32],
        y: impl Into<Targets<'a>>,
    ) -> Result<f32> {
        let targets = y.into();
        self.in_place(x, |session| {
            if let Method::Incremental(method) = &session.method {
                let method = method.clone();
                return session.increment(&method, parameters, optimizer, x, targets);
            }
            let loss = session.infer(&*parameters, x, targets)?;
            optimizer.step(parameters, session.gradients());
            Ok(loss)
        })
    }

    fn increment(
        &mut self,
        method: &Incremental,
        parameters: &mut Parameters,
        optimizer: &mut dyn Optimizer,
        x: &[f32],
        targets: Targets<'_>,
    ) -> Result<f32> {
        let samples = self.check((&*parameters).into(), x, Some(targets))?;
        self.draw_masks();
        let mut changing = self.changing.take().expect("a session of incremental has what changes");
        changing.change.values_mut().fill(0.0);
        changing.add_change(parameters);
        let mut outcome = Ok(f32::NAN);
        for iteration in 1..=method.iterations {
            self.pack((&changing.current).into());
            if iteration > 1 {
                changing.pack(&self.plan);
            }
            let change = Weights { parameters: (&changing.change).into(), packed: &changing.packed };
            let change = Some(change).filter(|_| iteration > 1);
            let current = (&changing.current).into();
            let conditions = Conditions::default();
            let arrivals =
                self.run(current, change, x, Some(targets), conditions, samples, true, |call, task, scratch| {
                    task.increment(call, method, iteration, scratch);
                });
            self.reduce(arrivals);
            outcome = self.end();
            if outcome == Err(Error::Stopped) {
                break;
            }
            optimizer.step_change(parameters, &mut changing.change, &self.gradients);
            changing.add_change(parameters);
        }
        if outcome.is_ok() {
            parameters.values_mut().copy_from_slice(changing.current.values());
        }
        self.changing = Some(changing);
        outcome
    }
}
