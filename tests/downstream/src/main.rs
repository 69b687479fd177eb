//! Steps a small convolutional network at every level, in both layouts and by both algorithms of convolutions, on threads with little stack: without
//! optimisation, nothing is inlined that could share a frame.

use predictive_coding::{
    Algorithm, Conv2d, FixedPrediction, LayoutChoice, Level, Linear, Loss, MaxPool2d, Method, Network, Op, Options,
    Result, Session, Strict,
};

/// Bytes of the stack of each thread.
const STACK: usize = 256 << 10;
const SAMPLES: usize = 3;

fn main() -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).stack_size(STACK).build().expect("threads");
    let on_thread = |f: fn() -> Result<()>| std::thread::Builder::new().stack_size(STACK).spawn(f);
    pool.install(steps)?;
    on_thread(steps).expect("a thread").join().expect("it ends")
}

fn steps() -> Result<()> {
    let conv = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]).with_padding([1, 1]));
    let pool = Op::MaxPool2d(MaxPool2d::new([2, 2]));
    let layers = vec![
        vec![conv(17), Op::Relu, pool.clone()],
        vec![conv(5), Op::GELU, pool, Op::Flatten],
        vec![Op::Linear(Linear::new(20)), Op::Tanh],
        vec![Op::Linear(Linear::new(10))],
    ];
    let network = Network::new(&[3, 12, 9], Loss::CROSS_ENTROPY, layers)?;
    let parameters = network.initialize(1);
    let elements: usize = network.input_shape().iter().product();
    let x: Vec<f32> = (0..SAMPLES * elements).map(|i| (i as f32 * 0.37).sin()).collect();
    let y = [3i64, 9, 0];
    let methods = [Method::Exact, FixedPrediction::new(0.1, 5).into(), Strict::new(0.1, 5).into()];
    for method in &methods {
        let mut first: Option<Vec<f32>> = None;
        for &level in Level::available() {
            let layouts = [LayoutChoice::Images, LayoutChoice::Channels];
            let algorithms = [Algorithm::Direct, Algorithm::Winograd];
            for (layout, convolution) in layouts.into_iter().flat_map(|layout| algorithms.map(|by| (layout, by))) {
                let options =
                    Options::default().with_level(Some(level)).with_layout(layout).with_convolution(convolution);
                let mut session = Session::new(&network, SAMPLES, method, options)?;
                let loss = session.infer(&parameters, &x, &y[..])?;
                let gradients = session.gradients().values();
                let first = first.get_or_insert_with(|| gradients.to_vec());
                let size = first.iter().fold(0.0f32, |size, g| size.max(g.abs()));
                let off = first.iter().zip(gradients).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
                assert!(
                    off <= 1e-5 * size,
                    "{level}, {layout:?}, {convolution:?}, {method:?}: gradients differ by {off} of {size}"
                );
                println!("{:>16} {level:>8} {layout:?} {convolution:?}: loss {loss:.6}", method.name());
            }
        }
    }
    Ok(())
}
