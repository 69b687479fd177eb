//! Sessions that several ranks share, which are threads here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use predictive_coding::{
    Adam, Arrival, Conv2d, Descending, Error, Exchange, FixedPrediction, Incremental, LayoutChoice, Linear, Loss,
    Method, Network, Nudge, OnDivergence, Op, Options, Parameters, Quantity, Ranks, Session, Strict,
};

/// What the ranks lay out for each other.
#[derive(Default)]
struct Board {
    /// Each exchange, with what each rank has laid out.
    exchanges: Mutex<Vec<Vec<Option<Told>>>>,
    changed: Condvar,
}

#[derive(Clone)]
enum Told {
    Values(Exchange),
    Numbers(Vec<f64>),
}

struct Rank {
    rank: usize,
    size: usize,
    any_order: bool,
    board: Arc<Board>,
    /// The exchanges that it has started and finished.
    started: Mutex<usize>,
    finished: Arc<AtomicUsize>,
}

impl Rank {
    fn all(size: usize, any_order: bool) -> Vec<Arc<dyn Ranks>> {
        let board = Arc::new(Board::default());
        let rank = |rank| {
            let (board, started, finished) = (board.clone(), Mutex::default(), Arc::default());
            Arc::new(Rank { rank, size, any_order, board, started, finished }) as Arc<dyn Ranks>
        };
        (0..size).map(rank).collect()
    }

    /// Lays something out, and returns what waits for all ranks.
    fn tell(&self, own: Told) -> impl FnOnce() -> Vec<Told> + Send + use<> {
        let mut started = self.started.lock().unwrap();
        let (index, size, board, finished) = (*started, self.size, self.board.clone(), self.finished.clone());
        *started += 1;
        let mut exchanges = board.exchanges.lock().unwrap();
        if exchanges.len() == index {
            exchanges.push(vec![None; size]);
        }
        exchanges[index][self.rank] = Some(own);
        drop(exchanges);
        board.changed.notify_all();
        move || {
            assert_eq!(finished.fetch_add(1, Ordering::Relaxed), index, "exchanges are finished in their order");
            let exchanges = board.exchanges.lock().unwrap();
            let waits = |exchanges: &mut Vec<Vec<Option<Told>>>| exchanges[index].iter().any(Option::is_none);
            let exchanges = board.changed.wait_while(exchanges, waits).unwrap();
            exchanges[index].iter().flatten().cloned().collect()
        }
    }
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

    /// So few that a batch has several rounds and buckets.
    fn bucket(&self) -> usize {
        100
    }

    fn start(&self, exchange: Exchange) -> Arrival {
        let (own, size) = (self.rank, self.size);
        let wait = self.tell(Told::Values(exchange.clone()));
        Box::new(move || {
            let all = wait().into_iter().map(|told| match told {
                Told::Values(exchange) => exchange,
                Told::Numbers(_) => panic!("one rank exchanges values, another numbers"),
            });
            let part = |values: &[f32], counts: &[usize], rank: usize| {
                assert_eq!((counts.len(), counts.iter().sum()), (size, values.len()));
                let first: usize = counts[..rank].iter().sum();
                values[first..first + counts[rank]].to_vec()
            };
            let parts = all.enumerate().map(|(rank, told)| match (told, &exchange) {
                (Exchange::AllToAll { send, counts, .. }, Exchange::AllToAll { received, .. }) => {
                    assert_eq!(counts[own], received[rank]);
                    part(&send, &counts, own)
                }
                (Exchange::AllGather { own, counts }, Exchange::AllGather { counts: expected, .. }) => {
                    assert_eq!((&counts, own.len()), (expected, counts[rank]));
                    own
                }
                (Exchange::AllReduce(values), Exchange::AllReduce(_)) => values,
                (told, _) => panic!("rank {own} starts {exchange:?}, and rank {rank} {told:?}"),
            });
            let parts: Vec<Vec<f32>> = parts.collect();
            match &exchange {
                Exchange::AllReduce(values) => (0..values.len())
                    .map(|i| parts.iter().map(|values| f64::from(values[i])).sum::<f64>() as f32)
                    .collect(),
                _ => parts.concat(),
            }
        })
    }

    fn all_gather_f64(&self, values: &mut [f64], counts: &[usize]) {
        assert_eq!(values.len(), counts.iter().sum::<usize>());
        let first: usize = counts[..self.rank].iter().sum();
        let all = self.tell(Told::Numbers(values[first..first + counts[self.rank]].to_vec()))();
        let all = all.into_iter().flat_map(|told| match told {
            Told::Numbers(numbers) => numbers,
            Told::Values(_) => panic!("one rank exchanges numbers, another values"),
        });
        values.iter_mut().zip(all).for_each(|(out, number)| *out = number);
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

/// One rank, which keeps the times at which exchanges start.
#[derive(Default)]
struct Clock(Mutex<Vec<Instant>>);

impl Ranks for Clock {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn bucket(&self) -> usize {
        1
    }

    fn start(&self, exchange: Exchange) -> Arrival {
        self.0.lock().unwrap().push(Instant::now());
        Box::new(|| match exchange {
            Exchange::AllToAll { send, .. } => send,
            Exchange::AllGather { own, .. } => own,
            Exchange::AllReduce(values) => values,
        })
    }

    fn all_gather_f64(&self, _: &mut [f64], _: &[usize]) {}
}

/// The rows of a group leave while other groups are computed, and the gradients of a layer while those below are: so it is at
/// least in one of many calls, whatever else the machine does.
#[test]
fn exchanges_start_while_groups_and_layers_are_computed() {
    let convolution = || Op::Conv2d(Conv2d::new(64, [3, 3]).with_padding([1, 1]));
    let layers =
        vec![vec![convolution(), Op::Tanh], vec![convolution(), Op::Flatten], vec![Op::Linear(Linear::new(3))]];
    let network = Network::new(&[64, 12, 12], Loss::MSE, layers).unwrap();
    let parameters = network.initialize(3);
    let options = Options::default().with_layout(LayoutChoice::Channels).with_groups(Some(16));
    for method in [Method::Exact, FixedPrediction::new(0.1, 5).into(), Strict::new(0.1, 1).into()] {
        // With one sample, there are a group and rounds and buckets of layers; with many, there are rounds of groups.
        for (samples, share) in [(32, 0.5), (1, 0.9)] {
            let clock = Arc::new(Clock::default());
            let mut session = Session::shared(&network, samples, &method, options, clock.clone()).unwrap();
            let (x, labels) = (numbers(64 * 144 * samples), vec![1i64; samples]);
            let shares = (0..20).map(|_| {
                let begin = Instant::now();
                session.infer(&parameters, &x, &labels[..]).unwrap();
                let whole = begin.elapsed().as_secs_f64();
                clock.0.lock().unwrap().drain(..).next().unwrap().duration_since(begin).as_secs_f64() / whole
            });
            let earliest = shares.fold(f64::INFINITY, f64::min);
            assert!(earliest < share, "{method} with {samples} samples: the first at {earliest} of the call");
        }
    }
}
