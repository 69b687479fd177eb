//! Sessions that several ranks share, which are threads here.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use predictive_coding::{
    Adam, Conv2d, Descending, Error, FixedPrediction, Incremental, LayoutChoice, Linear, Loss, Method, Network, Nudge,
    OnDivergence, Op, Options, Parameters, Quantity, Ranks, Session, Strict,
};

/// What the ranks lay out for each other.
struct Board {
    barrier: Barrier,
    told: Mutex<Vec<Vec<f64>>>,
}

struct Rank {
    rank: usize,
    size: usize,
    any_order: bool,
    board: Arc<Board>,
}

impl Rank {
    fn all(size: usize, any_order: bool) -> Vec<Arc<dyn Ranks>> {
        let board = Arc::new(Board { barrier: Barrier::new(size), told: Mutex::new(vec![Vec::new(); size]) });
        let rank = |rank| Arc::new(Rank { rank, size, any_order, board: board.clone() }) as Arc<dyn Ranks>;
        (0..size).map(rank).collect()
    }

    /// What every rank tells at the same time.
    fn tell(&self, own: Vec<f64>) -> Vec<Vec<f64>> {
        self.board.told.lock().unwrap()[self.rank] = own;
        self.board.barrier.wait();
        let all = self.board.told.lock().unwrap().clone();
        self.board.barrier.wait();
        all
    }
}

/// As float64, in which every float32 has a place.
fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value.into()).collect()
}

impl Ranks for Rank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn any_order(&self) -> bool {
        self.any_order
    }

    fn all_to_all(&self, send: &[f32], counts: &[usize], received: &mut [f32], received_counts: &[usize]) {
        let all_counts = self.tell(counts.iter().map(|&count| count as f64).collect());
        let all = self.tell(wide(send));
        let parts = all.iter().zip(&all_counts).map(|(values, counts)| {
            let first = counts[..self.rank].iter().sum::<f64>() as usize;
            &values[first..first + counts[self.rank] as usize]
        });
        let parts: Vec<&[f64]> = parts.collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), received_counts);
        received.iter_mut().zip(parts.concat()).for_each(|(out, value)| *out = value as f32);
    }

    fn all_gather(&self, values: &mut [f32], counts: &[usize]) {
        let mut all = wide(values);
        self.all_gather_f64(&mut all, counts);
        values.iter_mut().zip(all).for_each(|(out, value)| *out = value as f32);
    }

    fn all_gather_f64(&self, values: &mut [f64], counts: &[usize]) {
        assert_eq!(values.len(), counts.iter().sum::<usize>());
        let first: usize = counts[..self.rank].iter().sum();
        let all = self.tell(values[first..first + counts[self.rank]].to_vec());
        values.copy_from_slice(&all.concat());
    }

    fn all_reduce(&self, values: &mut [f32]) {
        let all = self.tell(wide(values));
        values
            .iter_mut()
            .enumerate()
            .for_each(|(i, out)| *out = all.iter().map(|values| values[i]).sum::<f64>() as f32);
    }
}

fn network(loss: Loss) -> Network {
    let linear = |outputs| Op::Linear(Linear::new(outputs));
    let convolution = |channels| Op::Conv2d(Conv2d::new(channels, [3, 3]).with_padding([1, 1]));
    let layers = vec![
        vec![convolution(5), Op::Tanh],
        vec![convolution(4), Op::Relu, Op::Flatten],
        vec![linear(23), Op::Tanh, Op::Dropout { p: 0.3 }],
        vec![linear(3)],
    ];
    Network::new(&[2, 5, 4], loss, layers).unwrap()
}

/// Numbers that look random.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i as f64 * 12.9898).sin() * 43758.5453).fract() as f32).collect()
}

/// What a few steps lead to.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    parameters: Parameters,
    losses: Vec<Result<f32, Error>>,
    outputs: Vec<f32>,
    descents: Vec<Descending>,
}

/// A step of a full batch and one of a smaller batch.
fn learn(mut session: Session, batch: usize) -> Outcome {
    let network = session.network().clone();
    let mut parameters = network.initialize(3);
    let mut adam = Adam::new(&parameters, 1e-2);
    let (mut losses, mut outputs, mut descents) = (Vec::new(), Vec::new(), Vec::new());
    for samples in [batch, batch / 2 + 1, 1] {
        let (x, labels) = (numbers(40 * samples), (0..samples as i64).map(|i| i % 3).collect::<Vec<_>>());
        losses.push(session.learn(&mut parameters, &mut adam, &x, &labels[..]));
        outputs.extend(session.get(Quantity::Activation, 4).unwrap());
        descents.extend(session.descents());
    }
    Outcome { parameters, losses, outputs, descents }
}

/// What each of `size` ranks is led to, each with threads of its own.
fn on_ranks(size: usize, any_order: bool, run: impl Fn(Arc<dyn Ranks>) -> Outcome + Sync) -> Vec<Outcome> {
    let run = |ranks: Arc<dyn Ranks>| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + ranks.rank() % 3).build().unwrap();
        pool.install(|| run(ranks))
    };
    let run = &run;
    thread::scope(|scope| {
        let ranks = Rank::all(size, any_order).into_iter();
        let threads: Vec<_> = ranks.map(|ranks| scope.spawn(move || run(ranks))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn bits_do_not_depend_on_the_number_of_ranks() {
    let methods: [Method; 6] = [
        Method::Exact,
        FixedPrediction::new(0.1, 5).into(),
        Strict::new(0.1, 4).into(),
        Strict::automatic(3, 4).with_nudge(Some(Nudge::new(0.1).with_centred(true))).into(),
        Strict::new(3.0, 9).with_on_divergence(OnDivergence::Shrink).into(),
        Incremental::new(0.1, 3).into(),
    ];
    for method in methods {
        for (layout, batch, groups) in [(LayoutChoice::Images, 70, None), (LayoutChoice::Channels, 40, Some(37))] {
            let options = Options::default().with_layout(layout).with_groups(groups).with_dropout_seed(Some(5));
            let network = network(Loss::CROSS_ENTROPY);
            let session = Session::new(&network, batch, &method, options).unwrap();
            assert!(groups.is_none_or(|groups| session.batch_groups() >= groups), "{}", session.batch_groups());
            let alone = learn(Session::new(&network, batch, &method, options).unwrap(), batch);
            assert!(alone.losses.iter().all(Result::is_ok), "{:?}", alone.losses);
            for size in [1, 2, 3, 4, 7] {
                let run = |ranks| learn(Session::shared(&network, batch, &method, options, ranks).unwrap(), batch);
                let all = on_ranks(size, false, run);
                let outputs = all.iter().map(|outcome| outcome.outputs.len()).sum::<usize>();
                assert_eq!(outputs, alone.outputs.len());
                for outcome in &all {
                    assert!(outcome.parameters == alone.parameters, "{method} on {size} ranks");
                    assert_eq!(outcome.losses, alone.losses);
                }
                if size == 1 {
                    assert_eq!(all, std::slice::from_ref(&alone));
                }
            }
        }
    }
}

#[test]
fn sums_in_any_order_differ_by_rounding_alone() {
    let network = network(Loss::MSE);
    let step = |mut session: Session| {
        session.infer(&network.initialize(3), &numbers(40 * 70), &[0i64; 70][..]).unwrap();
        session.gradients().clone()
    };
    let alone = step(Session::new(&network, 70, Method::Exact, Options::default()).unwrap());
    let largest = alone.values().iter().fold(0.0f32, |most, g| most.max(g.abs()));
    let run = |ranks| {
        let parameters = step(Session::shared(&network, 70, Method::Exact, Options::default(), ranks).unwrap());
        Outcome { parameters, losses: vec![], outputs: vec![], descents: vec![] }
    };
    for outcome in on_ranks(3, true, run) {
        let pairs = outcome.parameters.values().iter().zip(alone.values());
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-6 * largest);
    }
}

#[test]
fn the_divergence_of_one_rank_is_that_of_all() {
    let network = network(Loss::CROSS_ENTROPY);
    let method = Strict::new(3.0, 9).with_on_divergence(OnDivergence::Stop);
    let alone = learn(Session::new(&network, 70, method.clone(), Options::default()).unwrap(), 70);
    assert!(matches!(alone.losses[0], Err(Error::Diverged(_))), "{:?}", alone.losses);
    let run = |ranks| learn(Session::shared(&network, 70, method.clone(), Options::default(), ranks).unwrap(), 70);
    for outcome in on_ranks(3, false, run) {
        assert_eq!(outcome.losses, alone.losses);
        assert!(outcome.parameters == alone.parameters);
    }
}
