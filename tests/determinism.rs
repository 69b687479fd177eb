//! The same bits, whatever the number of threads and however often.

use predictive_coding::{Conv2d, Linear, Loss, MaxPool2d, Method, Network, Op};
use predictive_coding_reference::case::Case;
use predictive_coding_reference::levels::{forms, ways};
use predictive_coding_reference::methods::{fixed, strict};
use predictive_coding_reference::random;
use rand::RngExt;
use rayon::ThreadPoolBuilder;

fn assert_deterministic(network: &Network, seed: u64, samples: usize) {
    let methods = [Method::Exact, fixed(0.1, 4), strict(0.1, 4)];
    for form in forms() {
        for method in methods.iter().flat_map(ways) {
            let case = Case::random(&mut random::generator(seed), network, &method, samples);
            let run = |threads: usize, repeats: usize| {
                let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let mut session = form.session(network, samples, &method);
                    (0..repeats).map(|_| case.bits(&mut session)).collect::<Vec<_>>()
                })
            };
            let want = run(1, 1).remove(0);
            for threads in [1, 2, 3, 7] {
                for (repeat, got) in run(threads, 2).into_iter().enumerate() {
                    let what = format!("{form}, {method:?}, {samples} samples, {threads} threads, repeat {repeat}");
                    assert!(got == want, "{what}, {network:#?}");
                }
            }
        }
    }
}

/// Wide enough to be divided over output channels, and over the inner dimension of its gradients.
fn convolutional() -> Network {
    let conv =
        |channels, kernel_size, padding| Op::Conv2d(Conv2d::new(channels, [kernel_size; 2]).with_padding([padding; 2]));
    let layers = vec![
        vec![conv(8, 3, 1), Op::Relu],
        vec![conv(20, 3, 1), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2]))],
        vec![conv(70, 2, 0), Op::Tanh, Op::Flatten],
        vec![Op::Linear(Linear::new(130)), Op::Relu],
        vec![Op::Linear(Linear::new(10))],
    ];
    Network::new(&[3, 13, 11], Loss::MSE, layers).unwrap()
}

#[test]
fn a_convolutional_network_gives_the_same_bits_on_any_number_of_threads() {
    for samples in [1, 5, 16, 37, 150] {
        assert_deterministic(&convolutional(), 1, samples);
    }
}

#[test]
fn a_wide_linear_network_gives_the_same_bits_on_any_number_of_threads() {
    let linear = |out_features| Op::Linear(Linear::new(out_features));
    let layers = vec![vec![linear(600), Op::GELU], vec![linear(300), Op::Silu], vec![linear(10)]];
    let network = Network::new(&[784], Loss::CROSS_ENTROPY, layers).unwrap();
    for samples in [1, 8, 65, 130] {
        assert_deterministic(&network, 2, samples);
    }
}

#[test]
fn random_networks_give_the_same_bits_on_any_number_of_threads() {
    for seed in 0..30 {
        let mut rng = random::generator(seed);
        let network = random::network(&mut rng);
        let samples = rng.random_range(1..=80);
        assert_deterministic(&network, seed, samples);
    }
}
