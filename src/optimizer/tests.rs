//! Optimisers against PyTorch's documented recurrences, written out in f64 for one element, and
//! against values worked out by hand.

use super::*;
use crate::{Linear, Loss, Network, Op};

const START: [f64; 6] = [0.5, -1.25, 0.0, 3.0, -0.003, 0.75];

fn parameters(values: &[f64]) -> Parameters {
    let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(2))]]).unwrap();
    let mut parameters = Parameters::zeros(network.parameters().clone());
    for (to, from) in parameters.values_mut().iter_mut().zip(values) {
        *to = *from as f32;
    }
    parameters
}

/// Gradients of a step: of both signs, over six orders of magnitude, a 0 among them.
fn gradients(step: usize) -> [f64; 6] {
    let wave = |i: usize| ((step * 7 + i * 3) % 11) as f64 - 5.0;
    std::array::from_fn(|i| wave(i) * [1e-4, 0.01, 0.1, 1.0, 10.0, 100.0][i])
}

/// Runs `optimizer` beside `reference`, which maps (t, theta, g, state) to theta, element by element.
fn compare(
    mut optimizer: impl Optimizer,
    theta: &mut Parameters,
    mut reference: impl FnMut(i32, f64, f64, &mut [f64; 2]) -> f64,
) {
    let mut expected = START;
    let mut states = [[0.0; 2]; 6];
    for step in 1..=40 {
        let g = gradients(step);
        optimizer.step(theta, &parameters(&g));
        for i in 0..6 {
            expected[i] = reference(step as i32, expected[i], g[i], &mut states[i]);
            let got = f64::from(theta.values()[i]);
            let scale = expected[i].abs().max(START[i].abs()).max(1e-3);
            assert!((got - expected[i]).abs() <= 2e-5 * scale, "step {step}, element {i}: {got} for {}", expected[i]);
        }
    }
    assert_eq!(optimizer.steps(), 40);
}

fn adam_reference(lr: f64, decay: f64, shrink: f64) -> impl FnMut(i32, f64, f64, &mut [f64; 2]) -> f64 {
    move |t, theta, g, [m, v]| {
        let theta = theta - lr * shrink * theta;
        let g = g + decay * theta;
        *m = 0.9 * *m + 0.1 * g;
        *v = 0.999 * *v + 0.001 * g * g;
        let m_hat = *m / (1.0 - 0.9f64.powi(t));
        let v_hat = *v / (1.0 - 0.999f64.powi(t));
        theta - lr * m_hat / (v_hat.sqrt() + 1e-8)
    }
}

/// Whatever it was made with, an optimiser goes on by the learning rate that it is given.
#[test]
fn learning_rates_can_be_set() {
    let start = parameters(&START);
    type Make = fn(&Parameters, f64) -> Box<dyn Optimizer>;
    let made: [Make; 3] = [
        |theta, lr| Box::new(Sgd::new(theta, lr)),
        |theta, lr| Box::new(Adam::new(theta, lr)),
        |theta, lr| Box::new(AdamW::new(theta, lr)),
    ];
    for make in made {
        let (mut set, mut plain) = (make(&start, 0.5), make(&start, 1e-2));
        set.set_lr(1e-2).unwrap();
        assert_eq!(set.lr(), 1e-2);
        let [mut a, mut b] = [start.clone(), start.clone()];
        for step in 1..4 {
            set.step(&mut a, &parameters(&gradients(step)));
            plain.step(&mut b, &parameters(&gradients(step)));
        }
        assert_eq!(a, b);
        assert!(set.description().contains("lr=0.5"), "{}", set.description());
        for lr in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(set.set_lr(lr).is_err() && set.lr() == 1e-2);
        }
    }
}

#[test]
fn adam_follows_its_recurrence() {
    let mut theta = parameters(&START);
    compare(Adam::new(&theta, 2e-3), &mut theta, adam_reference(2e-3, 0.0, 0.0));
}

#[test]
fn adam_adds_its_weight_decay_to_the_gradient() {
    let mut theta = parameters(&START);
    let options = AdamOptions { lr: 5e-3, weight_decay: 0.1, ..AdamOptions::default() };
    compare(Adam::with_options(&theta, options).unwrap(), &mut theta, adam_reference(5e-3, 0.1, 0.0));
}

#[test]
fn adamw_shrinks_the_parameters() {
    let mut theta = parameters(&START);
    compare(AdamW::new(&theta, 5e-3), &mut theta, adam_reference(5e-3, 0.0, 0.01));
}

#[test]
fn sgd_follows_its_recurrence() {
    for (momentum, nesterov, weight_decay) in
        [(0.0, false, 0.0), (0.0, false, 0.1), (0.9, false, 0.01), (0.9, true, 0.01)]
    {
        let mut theta = parameters(&START);
        let sgd = Sgd::with_options(&theta, SgdOptions { lr: 1e-3, momentum, nesterov, weight_decay }).unwrap();
        compare(sgd, &mut theta, |t, theta, g, [buffer, _]| {
            let g = g + weight_decay * theta;
            *buffer = if t == 1 { g } else { momentum * *buffer + g };
            let direction = match (momentum > 0.0, nesterov) {
                (false, _) => g,
                (true, false) => *buffer,
                (true, true) => g + momentum * *buffer,
            };
            theta - 1e-3 * direction
        });
    }
}

/// In steps that are small beside the parameters, the change has the digits that their sum would have lost.
#[test]
fn a_change_takes_the_steps_of_the_parameters() {
    const SMALL: f64 = 1e-6;
    let first = parameters(&START);
    let adam = AdamOptions { lr: SMALL, weight_decay: 0.1, ..AdamOptions::default() };
    let [plain, decaying, nesterov] = [(0.0, false, 0.0), (0.0, false, 0.1), (0.9, true, 0.1)]
        .map(|(momentum, nesterov, weight_decay)| SgdOptions { lr: SMALL, momentum, nesterov, weight_decay });
    type Reference = Box<dyn FnMut(i32, f64, f64, &mut [f64; 2]) -> f64>;
    let sgd = |SgdOptions { momentum, weight_decay, .. }: SgdOptions| -> Reference {
        Box::new(move |t, theta, g, [buffer, _]| {
            let g = g + weight_decay * theta;
            *buffer = if t == 1 { g } else { momentum * *buffer + g };
            theta - SMALL * if momentum > 0.0 { g + momentum * *buffer } else { g }
        })
    };
    let cases: [(Box<dyn Optimizer>, Reference); 5] = [
        (Box::new(Sgd::with_options(&first, plain).unwrap()), sgd(plain)),
        (Box::new(Sgd::with_options(&first, decaying).unwrap()), sgd(decaying)),
        (Box::new(Sgd::with_options(&first, nesterov).unwrap()), sgd(nesterov)),
        (Box::new(Adam::with_options(&first, adam).unwrap()), Box::new(adam_reference(SMALL, 0.1, 0.0))),
        (Box::new(AdamW::with_options(&first, adam).unwrap()), Box::new(adam_reference(SMALL, 0.0, 0.1))),
    ];
    for (mut optimizer, mut reference) in cases {
        let mut change = parameters(&[0.0; 6]);
        let start: Vec<f64> = first.values().iter().map(|&value| value.into()).collect();
        let (mut expected, mut states) = (start.clone(), [[0.0; 2]; 6]);
        for step in 1..=40 {
            let g = parameters(&gradients(step));
            optimizer.step_change(&first, &mut change, &g);
            for (i, g) in g.values().iter().enumerate() {
                expected[i] = reference(step as i32, expected[i], f64::from(*g), &mut states[i]);
            }
        }
        for (i, got) in change.values().iter().enumerate() {
            let want = expected[i] - start[i];
            let what = optimizer.description();
            assert!((f64::from(*got) - want).abs() <= 1e-5 * want.abs() + 1e-15, "{what}, {i}: {got} for {want}");
        }
        assert_eq!(optimizer.steps(), 40);
    }
}

/// By hand: Adam's first step is lr g / (|g| + eps) whatever the gradient's size.
#[test]
fn the_first_step_of_adam_is_the_learning_rate() {
    let mut theta = parameters(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    Adam::new(&theta, 0.25).step(&mut theta, &parameters(&[1e-3, -1e-3, 1.0, -50.0, 0.0, 1e6]));
    assert_eq!(theta.values()[4], 1.0);
    for (got, expected) in theta.values().iter().zip([0.75, 1.25, 0.75, 1.25, 1.0, 0.75]) {
        assert!((got - expected).abs() < 1e-5, "{got} for {expected}");
    }
}

/// By hand: two steps of Nesterov's momentum 0.5 with lr 1 and gradient 1 from 0 are -1.5, -3.25.
#[test]
fn nesterov_by_hand() {
    let mut theta = parameters(&[0.0; 6]);
    let options = SgdOptions { lr: 1.0, momentum: 0.5, nesterov: true, weight_decay: 0.0 };
    let mut sgd = Sgd::with_options(&theta, options).unwrap();
    let one = parameters(&[1.0; 6]);
    sgd.step(&mut theta, &one);
    assert_eq!(theta.values(), [-1.5; 6]);
    sgd.step(&mut theta, &one);
    assert_eq!(theta.values(), [-3.25; 6]);
}

#[test]
fn a_restored_optimizer_goes_on_with_the_same_bits() {
    let run = |restore_at: Option<usize>| {
        let mut theta = parameters(&START);
        let mut optimizer = Adam::new(&theta, 0.01);
        for step in 0..10 {
            if restore_at == Some(step) {
                let mut fresh = Adam::new(&theta, 0.01);
                fresh.restore(optimizer.steps(), &optimizer.moments()).unwrap();
                optimizer = fresh;
            }
            optimizer.step(&mut theta, &parameters(&gradients(step)));
        }
        theta
    };
    assert_eq!(run(None), run(Some(4)));
}

#[test]
fn the_state_of_another_optimizer_is_refused() {
    let theta = parameters(&START);
    let adam = Adam::new(&theta, 0.01);
    let missing = Adam::new(&theta, 0.01).restore(1, &adam.moments()[..1]).unwrap_err();
    assert!(missing.to_string().contains("square"), "{missing}");
    let unknown = Sgd::new(&theta, 0.01).restore(1, &adam.moments()).unwrap_err();
    assert!(unknown.to_string().contains("mean"), "{unknown}");
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let theta = parameters(&START);
    let adam = |options| Adam::with_options(&theta, options).unwrap_err().to_string();
    assert!(adam(AdamOptions { lr: f64::NAN, ..Default::default() }).starts_with("lr is NaN"));
    assert!(adam(AdamOptions { betas: (0.9, 1.0), ..Default::default() }).starts_with("beta2 is 1"));
    let sgd = |options| Sgd::with_options(&theta, options).unwrap_err().to_string();
    assert!(sgd(SgdOptions { momentum: -0.1, ..Default::default() }).starts_with("momentum is -0.1"));
    assert!(sgd(SgdOptions { nesterov: true, ..Default::default() }).starts_with("nesterov"));
    assert!(sgd(SgdOptions { weight_decay: f64::INFINITY, ..Default::default() }).starts_with("weight_decay is inf"));
}
