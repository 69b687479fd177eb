//! One iteration of strict on a tile of LANES images and one thread, by layers and phases: each phase by
//! itself, over and over, and then as it comes in turn in whole iterations, with what lies in the caches
//! then, in a table. The floor is the multiplications and additions, taps on padding counted, at the FMA
//! peak of the same run.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use predictive_coding_kernels::{ConvShape, Level, fma_peak, lanes};

use crate::tile::{Sizes, Tile};

/// A phase of an iteration, of one layer, and the multiplications and additions that it takes.
struct Phase {
    name: &'static str,
    run: fn(&mut Tile, usize),
    flops: fn(&Tile, usize) -> u64,
}

/// In the order in which they run, each of them for all layers.
const PHASES: [Phase; 3] = [
    Phase { name: "forward differences", run: Tile::push, flops: Tile::product_flops },
    Phase { name: "energy", run: Tile::square, flops: Tile::square_flops },
    Phase { name: "pull and update", run: Tile::pull, flops: Tile::product_flops },
];

/// Iterations of a step, of which there are as many as fit a time.
const ITERATIONS: usize = 20;
const TIME: Duration = Duration::from_secs(2);

fn conv(in_channels: usize, out_channels: usize, size: usize, padding: usize) -> ConvShape {
    ConvShape {
        input: [size; 2],
        kernel: [3, 3],
        stride: [1, 1],
        padding: [padding; 2],
        dilation: [1, 1],
        ..ConvShape::linear(in_channels, out_channels)
    }
}

/// The paper's networks without their first layers, through which nothing is pushed or pulled.
fn networks() -> [(&'static str, Vec<Sizes>); 2] {
    let linear = ConvShape::linear;
    let mnist = vec![
        (conv(10, 5, 13, 0), Some(1)),
        (linear(605, 50), Some(1)),
        (linear(50, 30), Some(1)),
        (linear(30, 10), None),
    ];
    let cifar = vec![
        (conv(64, 128, 32, 1), Some(2)),
        (conv(128, 256, 16, 1), Some(2)),
        (linear(16384, 256), Some(1)),
        (linear(256, 256), Some(1)),
        (linear(256, 10), None),
    ];
    [("mnist", mnist), ("cifar", cifar)]
}

pub(crate) fn phases(criterion: &mut Criterion) {
    let level = Level::from_environment().expect("the level exists");
    let mut tiles = networks().map(|(network, layers)| (network, Tile::new(level, &layers)));
    for (network, tile) in &mut tiles {
        tile.assert_descent();
        let mut group = criterion.benchmark_group(format!("{network} iteration of {} images", lanes(level)));
        group.sample_size(20).warm_up_time(TIME / 10).measurement_time(TIME / 4);
        for Phase { name, run, flops } in &PHASES {
            for i in 0..tile.layers.len() {
                group.throughput(Throughput::Elements(flops(tile, i)));
                group.bench_function(format!("{name}/{}", tile.layers[i].name()), |bencher| {
                    bencher.iter(|| run(tile, i));
                });
            }
        }
        group.finish();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread can be had");
    let peak = pool.install(|| fma_peak(level));
    for (network, tile) in &mut tiles {
        println!(
            "\n{network}, one iteration of {} images on one thread, FMA peak {peak:.0} GFLOP/s: microseconds, the \
             floor, and the floor's share",
            lanes(level)
        );
        print_table(tile, peak);
    }
}

fn print_table(tile: &mut Tile, peak: f64) {
    let names = PHASES.iter().map(|phase| phase.name).chain(["sum"]);
    println!("{:<26}{}", "layer", names.map(|name| format!("{name:>26}")).collect::<String>());
    let mut sums = [[0.0; 2]; PHASES.len()];
    for (i, times) in medians(tile).into_iter().enumerate() {
        let mut cells = [[0.0; 2]; PHASES.len()];
        for (p, Phase { flops, .. }) in PHASES.iter().enumerate() {
            cells[p] = [times[p].as_secs_f64() * 1e6, flops(tile, i) as f64 / peak * 1e-3];
            sums[p] = plus(sums[p], cells[p]);
        }
        print_row(&format!("{} {}", i + 2, tile.layers[i].name()), &cells);
    }
    print_row("sum", &sums);
}

fn plus(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [a[0] + b[0], a[1] + b[1]]
}

/// Time and floor of every phase, and of all together.
fn print_row(name: &str, cells: &[[f64; 2]]) {
    let sum = cells.iter().copied().fold([0.0; 2], plus);
    let print = |[time, floor]: &[f64; 2]| format!("{time:>11.2}{floor:>10.2}{:>4.0}%", 100.0 * floor / time);
    println!("{name:<26}{}", cells.iter().chain([&sum]).map(print).collect::<String>());
}

/// The time of every phase of each layer in whole iterations, but for that of reading the clock.
fn medians(tile: &mut Tile) -> Vec<[Duration; PHASES.len()]> {
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let mut times = vec![[const { Vec::new() }; PHASES.len()]; tile.layers.len()];
    let begin = Instant::now();
    while begin.elapsed() < TIME {
        tile.restart();
        for _ in 0..ITERATIONS {
            for (p, Phase { run, .. }) in PHASES.iter().enumerate() {
                for (i, times) in times.iter_mut().enumerate() {
                    let start = Instant::now();
                    run(tile, i);
                    times[p].push(start.elapsed());
                }
            }
        }
    }
    let clock = median((0..1000).map(|_| Instant::now().elapsed()).collect());
    times.into_iter().map(|times| times.map(|times| median(times).saturating_sub(clock))).collect()
}
