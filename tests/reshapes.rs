//! Images that are flattened and unflattened, in every order, against the reference.

use predictive_coding::{Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op, Strict};
use predictive_coding_reference::case::Case;
use predictive_coding_reference::compare::{self, BOUND};
use predictive_coding_reference::levels::{all_forms, forms};
use predictive_coding_reference::random;

fn linear(features: usize) -> Op {
    Op::Linear(Linear::new(features))
}

fn conv(channels: usize, kernel: [usize; 2]) -> Op {
    Op::Conv2d(Conv2d::new(channels, kernel))
}

fn unflatten(channels: usize, height: usize, width: usize) -> Op {
    Op::Unflatten { size: [channels, height, width] }
}

fn pool() -> Op {
    Op::MaxPool2d(MaxPool2d::new([2, 2]))
}

fn methods() -> [Method; 2] {
    [Method::Exact, Strict::new(0.1, 7).into()]
}

/// Chains of layers, by the shape of their input.
fn networks() -> Vec<(Vec<usize>, Vec<Vec<Op>>)> {
    vec![
        // A decoder.
        (vec![5], vec![vec![linear(40), Op::Tanh, unflatten(10, 2, 2)], vec![conv(3, [2, 1]), Op::Flatten, Op::Tanh]]),
        // Straight to a linear map again, in one layer and in two.
        (vec![6], vec![vec![linear(24), unflatten(4, 3, 2), Op::Flatten, Op::Tanh, linear(5)]]),
        (vec![6], vec![vec![linear(24), unflatten(2, 3, 4)], vec![Op::Flatten, linear(5), Op::Tanh], vec![linear(3)]]),
        // An image of other sides than it had.
        (
            vec![2, 6, 6],
            vec![
                vec![conv(4, [3, 3]), Op::Tanh, Op::Flatten, unflatten(2, 8, 4)],
                vec![conv(3, [3, 2]), Op::Tanh],
                vec![Op::Flatten, unflatten(3, 6, 3), Op::Flatten, unflatten(18, 1, 3)],
                vec![conv(2, [1, 2]), Op::Flatten, unflatten(4, 1, 1), Op::Flatten],
            ],
        ),
        // Nothing but reshaping, of the input, of a belief and of the result.
        (
            vec![12],
            vec![vec![unflatten(3, 2, 2)], vec![Op::Flatten], vec![unflatten(2, 3, 2), Op::Silu], vec![Op::Flatten]],
        ),
        // An activation that waits for a pooling.
        (vec![7], vec![vec![linear(32), Op::Relu, unflatten(2, 4, 4), pool()], vec![Op::Flatten, linear(3)]]),
        (vec![7], vec![vec![linear(32), unflatten(2, 4, 4), Op::Relu, pool()], vec![Op::Flatten, linear(3)]]),
        (vec![1, 4, 8], vec![vec![Op::Relu, Op::Flatten, unflatten(2, 4, 4), pool(), Op::Flatten], vec![linear(3)]]),
    ]
}

fn check(network: &Network, samples: usize, forms: &[predictive_coding_reference::levels::Form]) {
    for method in methods() {
        let mut rng = random::generator(7);
        let case = Case::random(&mut rng, network, &method, samples);
        let want = case.tensors(&case.reference());
        for form in forms {
            let mut session = form.session(network, samples, &method);
            case.infer(&mut session).unwrap();
            let (error, tensor) = compare::worst(&case.results(&session), &want);
            assert!(error <= BOUND, "{form}, {samples} samples, {method:?}, {network:?}: {error:.1e} at {tensor}");
        }
    }
}

#[test]
fn reshapes_keep_the_order_of_elements() {
    for (input, layers) in networks() {
        let network = Network::new(&input, Loss::MSE, layers).unwrap();
        for samples in [1, 19] {
            check(&network, samples, &all_forms());
        }
    }
}

/// A product so large that what follows is done band by band, but not where its rows have become others.
#[test]
fn rows_that_are_reshaped_are_not_cut() {
    let layers = vec![vec![conv(8, [1, 1]), Op::Flatten, unflatten(4, 32, 64), Op::Tanh, Op::Flatten], vec![linear(3)]];
    check(&Network::new(&[1, 32, 32], Loss::MSE, layers).unwrap(), 16, &forms());
}

#[test]
fn shapes_that_do_not_fit_are_refused_in_one_line() {
    for (input, size, parts) in [
        (vec![12], [3, 2, 3], ["operation 0.0", "[3, 2, 3] for 12 features"]),
        (vec![12], [0, 2, 3], ["operation 0.0", "[0, 2, 3] for 12 features"]),
        (vec![12], [usize::MAX, 2, 3], ["operation 0.0", "for 12 features"]),
        (vec![3, 2, 2], [3, 2, 2], ["unflatten takes a flat input, found [3, 2, 2]", "flatten before it"]),
    ] {
        let error = Network::new(&input, Loss::MSE, vec![vec![Op::Unflatten { size }]]).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)) && !error.contains('\n'), "{error}");
    }
}
