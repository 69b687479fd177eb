//! A session inside another program's training loop, with that program's buffers, optimiser and threads.
//!
//! A network learns by strict predictive coding which points of a square lie in a ring, and draws the result:
//! `cargo run --release --example embed --no-default-features`.

use predictive_coding::{Linear, Loss, Network, Op, Options, Quantity, Session, Strict};

const BATCH: usize = 64;
const STEPS: usize = 4000;

/// Points that fill the square [-1, 1]^2 evenly, one after the other.
fn point(index: usize) -> [f32; 2] {
    [0.754_877_67, 0.569_840_3].map(|stride: f64| (2.0 * (stride * index as f64).fract() - 1.0) as f32)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let linear = |outputs| Op::Linear(Linear::new(outputs));
    let layers = vec![vec![linear(64), Op::Relu], vec![linear(64), Op::Relu], vec![linear(1)]];
    let network = Network::new(&[2], Loss::MSE, layers)?;
    let mut parameters = network.initialize(1);
    let mut session = Session::new(&network, BATCH, Strict::new(0.1, 20), Options::default())?;

    // The program owns all of these. The session writes into its buffers and runs on its threads.
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2).build()?;
    let (mut x, mut y) = ([[0.0; 2]; BATCH], [0.0; BATCH]);
    let mut errors = vec![0.0; BATCH * session.elements(1)];
    let mut velocity = vec![0.0; parameters.values().len()];

    for step in 0..=STEPS {
        for (i, (x, y)) in x.iter_mut().zip(&mut y).enumerate() {
            *x = point(step * BATCH + i);
            *y = f32::from((0.35..0.8).contains(&x[0].hypot(x[1])));
        }
        let loss = threads.install(|| session.infer(&parameters, x.as_flattened(), &y[..]))?;
        let gradients = session.gradients().values();
        for ((value, velocity), gradient) in parameters.values_mut().iter_mut().zip(&mut velocity).zip(gradients) {
            *velocity = 0.9 * *velocity + gradient;
            *value -= 0.02 * *velocity;
        }
        if step % (STEPS / 5) == 0 {
            session.read(Quantity::Error, 1, &mut errors)?;
            let squares: f32 = errors.iter().map(|error| error * error).sum();
            println!("step {step:4}: loss {loss:.4}, length of the first layer's errors {:.1e}", squares.sqrt());
        }
    }

    let coordinate = |i: usize, count: usize| (2 * i + 1) as f32 / count as f32 - 1.0;
    for row in 0..BATCH / 2 {
        x = std::array::from_fn(|column| [coordinate(column, BATCH), coordinate(row, BATCH / 2)]);
        let outputs = threads.install(|| session.predict(&parameters, x.as_flattened()))?;
        println!("{}", outputs.iter().map(|&inside| if inside > 0.5 { '#' } else { '.' }).collect::<String>());
    }
    Ok(())
}
