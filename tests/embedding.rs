//! Sessions inside of other programs: in threads, in pools, beside panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use predictive_coding::{
    Adam, Descending, Error, Linear, Loss, Method, Network, Op, Optimizer, Options, Parameters, Session, Sgd, Strict,
};

fn strict() -> Strict {
    Strict::new(0.1, 8)
}

const fn sent_and_shared<T: Send + Sync>() {}
const _: () = {
    sent_and_shared::<Session>();
    sent_and_shared::<Network>();
    sent_and_shared::<Parameters>();
    sent_and_shared::<Method>();
    sent_and_shared::<Options>();
    sent_and_shared::<Error>();
    sent_and_shared::<Descending>();
    sent_and_shared::<Adam>();
    sent_and_shared::<Sgd>();
    sent_and_shared::<Box<dyn Optimizer>>();
};

fn network() -> Network {
    let layers = [24, 20, 6].map(|outputs| vec![Op::Linear(Linear::new(outputs)), Op::Tanh]);
    Network::new(&[12], Loss::MSE, layers.to_vec()).unwrap()
}

/// A batch of `samples`, its targets, and the gradients that a session of its own finds.
fn step(network: &Network, parameters: &Parameters, samples: usize) -> Vec<f32> {
    let mut session = Session::new(network, samples, strict(), Options::default()).unwrap();
    let (x, y) = batch(samples);
    session.infer(parameters, &x, &y[..]).unwrap();
    session.gradients().values().to_vec()
}

fn batch(samples: usize) -> (Vec<f32>, Vec<f32>) {
    let wave = |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect();
    (wave(samples * 12, 0.37), wave(samples * 6, 0.91))
}

#[test]
fn sessions_in_threads_and_pools_find_the_same_bits() {
    let network = network();
    let parameters = network.initialize(3);
    let expected = step(&network, &parameters, 100);
    let shared = Arc::new((network, parameters));
    let in_thread = || {
        let shared = Arc::clone(&shared);
        std::thread::spawn(move || step(&shared.0, &shared.1, 100))
    };
    let threads: Vec<_> = (0..6).map(|_| in_thread()).collect();
    for thread in threads {
        assert!(thread.join().unwrap() == expected, "in a thread");
    }
    for size in [1, 2, 3, 64] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(size).build().unwrap();
        assert!(pool.install(|| step(&shared.0, &shared.1, 100)) == expected, "in a pool of {size}");
    }
    // As a task among others, which wait for sessions in turn.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    pool.install(|| {
        use rayon::prelude::*;
        let all: Vec<Vec<f32>> = (0..16).into_par_iter().map(|_| step(&shared.0, &shared.1, 100)).collect();
        assert!(all.iter().all(|gradients| *gradients == expected), "in a task");
    });
}

#[test]
fn one_session_goes_from_thread_to_thread() {
    let network = network();
    let parameters = network.initialize(3);
    let (x, y) = batch(40);
    let mut session = Session::new(&network, 40, strict(), Options::default()).unwrap();
    session.infer(&parameters, &x, &y[..]).unwrap();
    let expected = session.gradients().values().to_vec();
    for _ in 0..3 {
        session = std::thread::scope(|scope| {
            let moved = scope.spawn(|| {
                let mut session = session;
                session.infer(&parameters, &x, &y[..]).unwrap();
                session
            });
            moved.join().unwrap()
        });
        assert!(session.gradients().values() == expected);
    }
}

#[test]
fn a_panic_of_the_caller_leaves_a_session_as_it_was() {
    let network = network();
    let parameters = network.initialize(3);
    let (x, y) = batch(40);
    let mut session = Session::new(&network, 40, strict(), Options::default()).unwrap();
    session.infer(&parameters, &x, &y[..]).unwrap();
    let expected = session.gradients().values().to_vec();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        session.infer(&parameters, &x[..12], &y[..6]).unwrap();
        // Asked for a layer that is not there.
        session.elements(9)
    }));
    assert!(panicked.is_err());
    session.infer(&parameters, &x, &y[..]).unwrap();
    assert!(session.gradients().values() == expected);

    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        pool.install(|| rayon::join(|| step(&network, &parameters, 40), || panic!("of another task")))
    }));
    assert!(panicked.is_err());
    assert!(pool.install(|| step(&network, &parameters, 40)) == expected);
}

#[test]
fn a_clone_goes_on_by_itself() {
    let network = network();
    let parameters = network.initialize(3);
    let (x, y) = batch(40);
    let mut session = Session::new(&network, 40, strict(), Options::default()).unwrap();
    session.infer(&parameters, &x, &y[..]).unwrap();
    let mut clone = session.clone();
    assert!(clone.gradients() == session.gradients());
    // What the clone computes is its own.
    clone.infer(&parameters, &x[..12], &y[..6]).unwrap();
    assert!(clone.gradients() != session.gradients());
    session.infer(&parameters, &x[..12], &y[..6]).unwrap();
    assert!(clone.gradients() == session.gradients());
}

#[test]
fn what_is_large_is_told_in_one_line() {
    let network = network();
    let session = Session::new(&network, 40, strict(), Options::default()).unwrap();
    for told in [format!("{session:?}"), format!("{session:#?}"), format!("{:?}", session.gradients())] {
        assert!(!told.contains('\n') && told.len() < 250, "{told}");
    }
}
