//! A session allocates nothing after its first step, and neither does an optimiser.

use std::sync::Barrier;

use predictive_coding::{Adam, Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op, Optimizer, Options, Session};
use predictive_coding_reference::memory::Counting;
use predictive_coding_reference::methods::{fixed, literal, strict};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Makes both threads of a pool take work from the other: rayon allocates something for a thread
/// when it does that for the first time.
fn let_both_steal() {
    let (first, second) = (Barrier::new(2), Barrier::new(2));
    let wait = |barrier: &Barrier| {
        barrier.wait();
    };
    rayon::join(
        || wait(&first),
        || {
            wait(&first);
            rayon::join(|| wait(&second), || wait(&second));
        },
    );
}

#[test]
fn steps_after_the_first_allocate_nothing() {
    let layers = vec![
        vec![Op::Conv2d(Conv2d::new(4, [3, 3])), Op::Tanh, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten],
        vec![Op::Linear(Linear::new(9)), Op::Relu],
        vec![Op::Linear(Linear::new(3))],
    ];
    let network = Network::new(&[2, 8, 8], Loss::MSE, layers).unwrap();
    let x: Vec<f32> = (0..50 * 128).map(|i| (i % 17) as f32 / 17.0).collect();
    let y: Vec<i64> = (0..50).map(|i| i % 3).collect();
    // Threads allocate when they begin and when they end: let all have begun, and none end before the test does.
    let pools = [1, 2].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for pool in &pools {
        pool.broadcast(|_| ());
    }
    for pool in &pools {
        let threads = pool.current_num_threads();
        let layers = [0.1, 0.05];
        for method in [Method::Exact, fixed(0.1, 7), literal(0.1, 7), strict(0.1, 7), strict(layers, 7)] {
            // From inside of the pool: handing it a task from outside takes an entry of rayon's queue.
            let counted = pool.install(|| {
                if threads == 2 {
                    let_both_steal();
                }
                let mut parameters = network.initialize(3);
                let mut adam = Adam::new(&parameters, 1e-3);
                let mut session = Session::new(&network, 50, &method, Options::default()).unwrap();
                session.record_energies(true).unwrap();
                let mut step = |samples: usize| {
                    session.infer(&parameters, &x[..samples * 128], &y[..samples]).unwrap();
                    adam.step(&mut parameters, session.gradients());
                };
                step(50);
                let before = ALLOCATOR.allocations();
                (0..5).for_each(|_| step(50));
                step(3);
                ALLOCATOR.allocations() - before
            });
            assert_eq!(counted, 0, "{method:?} on {threads} threads");
        }
    }
}
