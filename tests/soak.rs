//! Random networks, batches, methods, levels and threads, and random products and convolutions, against the
//! naive twins and against each other, with an eye on memory: twenty cases, or for as long as
//! `PREDICTIVE_CODING_SOAK_MINUTES` says, the first of them case `PREDICTIVE_CODING_SOAK_FROM`.

use std::time::{Duration, Instant};

use predictive_coding::{Conv2d, Level, Linear, Loss, MaxPool2d, Method, Network, Op, Strict};
use predictive_coding_kernels::{
    Algorithm, Buffer, ConvShape, GemmScratch, Lhs, MatMut, MatRef, NchwConv, PackedLhs, gemm,
};
use predictive_coding_kernels_reference as reference;
use predictive_coding_reference::case::Case;
use predictive_coding_reference::judge::{Judge, sessions};
use predictive_coding_reference::levels::{forms_of, levels};
use predictive_coding_reference::memory::Counting;
use predictive_coding_reference::random;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use rayon::{ThreadPool, ThreadPoolBuilder};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// Cases unless a time is given.
const CASES: u64 = 20;
/// Cases until rayon, the tests' output and the pools have what they keep.
const WARM_UP: u64 = 10;
/// What may then be allocated besides: entries of rayon's queues that wait to be freed.
const SLACK: usize = 1 << 20;

#[test]
fn soak() {
    let minutes = std::env::var("PREDICTIVE_CODING_SOAK_MINUTES").ok();
    let minutes = minutes.map(|text| text.parse::<f64>().unwrap_or_else(|_| panic!("{text:?}, expected minutes")));
    let end = minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(60.0 * minutes));
    let pools = [1, 2, 3, 7].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let levels = levels();
    let mut judge = Judge::default();
    let (mut products, mut convolutions, mut warm, mut told) = (0, 0, 0, Instant::now());
    let first = std::env::var("PREDICTIVE_CODING_SOAK_FROM").ok();
    let first = first.map_or(0, |text| text.parse::<u64>().unwrap_or_else(|_| panic!("{text:?}, expected a case")));
    for seed in first.. {
        if end.map_or(seed >= first + CASES, |end| seed > first + WARM_UP && Instant::now() > end) {
            break;
        }
        // Other seeds than those of the tests.
        let mut rng = random::generator(2_000_000_000 + seed);
        network(&mut rng, &pools, &levels, &mut judge, seed);
        products += usize::from(product(&mut rng, &pools, &levels, seed));
        convolutions += usize::from(convolution(&mut rng, &pools, &levels, seed));
        if seed == first + WARM_UP {
            warm = ALLOCATOR.live();
            ALLOCATOR.reset_peak();
        }
        let live = ALLOCATOR.live();
        assert!(
            seed <= first + WARM_UP || live <= warm + SLACK,
            "case {seed}: {live} bytes are allocated, {warm} were"
        );
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            eprintln!(
                "{} cases: {} tensors judged, {} skipped, {products} products, {convolutions} convolutions; {live} \
                 bytes allocated, {warm} after the first {WARM_UP} cases, {} at most",
                seed + 1 - first,
                judge.judged,
                judge.skipped,
                ALLOCATOR.peak()
            );
        }
    }
    println!("{judge:?}, {products} products, {convolutions} convolutions");
    assert!(judge.judged > 20 * judge.skipped && products > 0 && convolutions > 0, "{judge:?}");
}

/// A network at all levels and in all ways against the reference, then in every way against itself on other
/// threads.
fn network(rng: &mut ChaCha8Rng, pools: &[ThreadPool], levels: &[Level], judge: &mut Judge, seed: u64) {
    let network = if rng.random_bool(0.2) { wide_network(rng) } else { random::network(rng) };
    let method = random::method(rng);
    let batch = rng.random_range(1..=40);
    let full = Case::random(rng, &network, &method, batch);
    let smaller = rng.random_range(1..=batch);
    let last = full.with_batch(rng, smaller).with_random_begin(rng);
    let [one, other] = [pools.choose(rng), pools.choose(rng)].map(|pool| pool.expect("there are pools"));
    let what = format!("case {seed}, {} threads", one.current_num_threads());
    one.install(|| {
        let mut sessions = sessions(&network, batch, &method, &forms_of(levels));
        for case in [&full, &last] {
            judge.step(case, &mut sessions, rng, &what);
        }
    });
    for form in forms_of(levels) {
        let mut methods = vec![method.clone()];
        if let Method::Strict(Strict { iterations, .. }) = method {
            methods.extend([
                Strict::sweeps(iterations).into(),
                Strict::automatic(rng.random_range(1..5), iterations).into(),
                Strict::new(0.1, iterations).with_tolerance(Some(1e-2)).into(),
            ]);
        }
        for method in methods {
            let bits = |pool: &ThreadPool| {
                pool.install(|| {
                    let mut session = form.session(&network, batch, &method);
                    [full.bits(&mut session), full.bits(&mut session)]
                })
            };
            // The estimates of automatic steps start at what the call before them left.
            let (ours, theirs) = (bits(one), bits(other));
            assert!(ours == theirs, "{what} and {}, {method:?}, {network:?}", other.current_num_threads());
        }
    }
}

/// Wide enough to be cut into blocks.
fn wide_network(rng: &mut ChaCha8Rng) -> Network {
    let linear = |rng: &mut ChaCha8Rng| Op::Linear(Linear::new(rng.random_range(1..400)));
    let loss = [Loss::MSE, Loss::CROSS_ENTROPY][rng.random_range(0..2)];
    let layers = vec![vec![linear(rng), Op::Tanh], vec![linear(rng), Op::Silu]];
    if rng.random() {
        return Network::new(&[rng.random_range(1..900)], loss, layers).unwrap();
    }
    let conv = |rng: &mut ChaCha8Rng| {
        let padding = [rng.random_range(0..2), rng.random_range(0..2)];
        Op::Conv2d(Conv2d::new(rng.random_range(1..48), [3, rng.random_range(1..4)]).with_padding(padding))
    };
    let images = vec![
        vec![conv(rng), Op::LeakyRelu { negative_slope: 0.1 }],
        vec![conv(rng), Op::Relu, Op::MaxPool2d(MaxPool2d::new([2, 2])), Op::Flatten],
    ];
    let input = [rng.random_range(1..40), rng.random_range(7..14), rng.random_range(7..14)];
    Network::new(&input, loss, [images, layers].concat()).unwrap()
}

/// The tolerance of a sum of `depth` products of numbers up to 1.
fn tolerance(depth: usize) -> f64 {
    4.0 * f64::from(f32::EPSILON) * ((depth as f64).sqrt() + 2.0) * (depth as f64).sqrt()
}

fn assert_near(got: &[f32], want: &[f64], depth: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let off = (f64::from(got) - want).abs();
        assert!(off <= tolerance(depth), "{what}: element {i} is {got}, expected {want}");
    }
}

/// A matrix product of random sizes and strides; whether there was something to compute.
fn product(rng: &mut ChaCha8Rng, pools: &[ThreadPool], levels: &[Level], seed: u64) -> bool {
    // Long along any side, but not along all.
    let mut side = |most: usize| (f64::from(rng.random_range(0.0f32..1.0)).powi(3) * most as f64) as usize;
    let [m, n, k] = [side(400), side(600), side(1500)];
    let mut matrix = |rows: usize, columns: usize| {
        let gap = [0, 0, 1, 5][rng.random_range(0..4)];
        let strides = if rng.random() { [columns + gap, 1] } else { [1, rows + gap] };
        let len = if rows * columns == 0 { 0 } else { (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1 };
        (random::values(rng, len), strides)
    };
    let [(a, a_strides), (b, b_strides), (c, c_strides)] = [matrix(m, k), matrix(k, n), matrix(m, n)];
    let beta = [0.0, 1.0, -0.5][rng.random_range(0..3)];
    let want = reference::gemm([m, n, k], 0.5, (&a, a_strides), (&b, b_strides), beta, (&c, c_strides));
    let view = MatRef::new(&a, m, k, a_strides[0] as isize, a_strides[1] as isize);
    for &level in levels {
        let packed = PackedLhs::pack(level, view);
        for lhs in [Lhs::Plain(view), Lhs::Packed(&packed)] {
            for pool in pools {
                let mut out = c.clone();
                let threads = pool.current_num_threads();
                let mut scratch = Buffer::zeros(threads * GemmScratch::new(level, m, k, n).len());
                pool.install(|| {
                    let b = MatRef::new(&b, k, n, b_strides[0] as isize, b_strides[1] as isize);
                    gemm(
                        level,
                        0.5,
                        lhs,
                        b,
                        beta,
                        MatMut::new(&mut out, m, n, c_strides[0] as isize, c_strides[1] as isize),
                        &mut scratch,
                    );
                });
                let at = |i: usize| out[i / n * c_strides[0] + i % n * c_strides[1]];
                let got: Vec<f32> = (0..m * n).map(at).collect();
                assert_near(
                    &got,
                    &want,
                    k + 1,
                    &format!("case {seed}: {level} product {m} x {k} x {n}, {threads} threads"),
                );
            }
        }
    }
    m * n * k > 0
}

/// A convolution of plain tensors of random sizes; whether there was a window that fits.
fn convolution(rng: &mut ChaCha8Rng, pools: &[ThreadPool], levels: &[Level], seed: u64) -> bool {
    let mut pair = |from: usize, to: usize| [rng.random_range(from..=to), rng.random_range(from..=to)];
    let [in_channels, mut out_channels] = pair(1, 40);
    let groups = if seed % 4 == 3 { in_channels } else { 1 };
    if groups > 1 {
        out_channels = in_channels;
    }
    let shape = ConvShape {
        groups,
        input: pair(1, 20),
        kernel: pair(1, 5),
        stride: pair(1, 3),
        padding: pair(0, 3),
        dilation: pair(1, 2),
        ..ConvShape::linear(in_channels, out_channels)
    };
    let batch = rng.random_range(1..=20);
    let fits =
        |axis: usize| (shape.kernel[axis] - 1) * shape.dilation[axis] < shape.input[axis] + 2 * shape.padding[axis];
    if !fits(0) || !fits(1) {
        return false;
    }
    let pixels = |[height, width]: [usize; 2]| height * width;
    let output = reference::output_size(&shape);
    let x = random::values(rng, batch * in_channels * pixels(shape.input));
    let e = random::values(rng, batch * out_channels * pixels(output));
    let weight = random::values(rng, shape.weights());
    let forward = reference::conv_forward(&shape, batch, &x, &weight);
    let data = reference::conv_backward_data(&shape, batch, &e, &weight);
    let weights = reference::conv_backward_weights(&shape, batch, &e, &x);
    let taps = pixels(shape.kernel);
    for &level in levels {
        for pool in pools {
            pool.install(|| {
                let what = format!("case {seed}: {level} {shape:?}, {batch} images");
                let conv = NchwConv::new(level, shape, batch, Algorithm::Auto);
                let mut scratch = Buffer::zeros(conv.scratch_len());
                let [mut y, mut back, mut gradient] = [e.len(), x.len(), weight.len()].map(|len| vec![f32::NAN; len]);
                conv.forward(&weight, None, &x, &mut y, &mut scratch);
                assert_near(&y, &forward, in_channels / groups * taps, &what);
                conv.backward_data(&weight, &e, &mut back, &mut scratch);
                assert_near(&back, &data, out_channels / groups * taps, &what);
                conv.backward_weights(&e, &x, &mut gradient, &mut scratch);
                assert_near(&gradient, &weights, batch * pixels(output), &what);
            });
        }
    }
    true
}
