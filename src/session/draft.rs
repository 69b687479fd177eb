//! What a session is made of before its buffers are there: the plan, how a batch is cut for threads, and the memory
//! that all of it takes.

use predictive_coding_kernels::{ConvOptions, Level, pool_threads};

use crate::error::{Error, Result};
use crate::layout::choose_layout;
use crate::method::{Eta, FixedPrediction, Method, Solver, Strict};
use crate::network::Network;
use crate::options::Options;
use crate::plan::Plan;
use crate::relaxation::{Descent, Open};
use crate::state::{Extras, Moving, Scratch, Tile};

/// Bytes that the groups' partial gradients may take together before tiles share them.
const GROUP_BYTES: usize = 64 << 20;
/// The most groups where a tile is one sample.
const MOST_GROUPS: usize = 32;

/// What a method's quantities are backpropagation's errors times of, for each layer.
#[derive(Clone)]
pub(super) struct Multiples {
    /// precision_l epsilon_l, which the gradients follow.
    pub(super) weighted: Vec<f64>,
    /// epsilon_l.
    pub(super) errors: Vec<f64>,
    /// v-hat_l - v_l.
    pub(super) moves: Vec<f64>,
}

/// A session before its buffers are there.
pub(super) struct Draft {
    pub(super) plan: Plan,
    pub(super) multiples: Option<Multiples>,
    pub(super) tiles: usize,
    pub(super) tiles_per_group: usize,
    /// Groups of this process, if the batch is shared by several the most that it may have.
    pub(super) groups: usize,
    /// Tasks that run at the same time, and threads that share one.
    pub(super) tasks: usize,
    pub(super) threads: usize,
    pub(super) extras: Extras,
    /// Whether step sizes may be estimated.
    pub(super) estimates: bool,
    /// Elements of all buffers; none if they are too many to be counted.
    pub(super) total: Option<usize>,
}

impl Draft {
    /// Of one of `shares` processes that share the batch.
    pub(super) fn new(
        network: &Network,
        batch: usize,
        method: &Method,
        options: &Options,
        shares: usize,
    ) -> Result<Self> {
        method.validate()?;
        let level = match options.level {
            Some(level) => level,
            None => Level::from_environment().map_err(|e| Error::Argument(e.to_string()))?,
        };
        if batch == 0 {
            return Err(Error::Argument("the batch size is 0, expected at least 1".into()));
        }
        check_memory(batch, network.table_bytes().checked_div(size_of::<f32>()))?;
        let layout = choose_layout(network, level, batch, options);
        let incremental = matches!(method, Method::Incremental(_));
        let uses = if incremental { 1 } else { method.iterations().unwrap_or(1) };
        let images = batch.saturating_mul(uses);
        let convolutions = ConvOptions::default().with_algorithm(options.convolution).with_images(images);
        let strict = if let Method::Strict(strict) = method { Some(strict) } else { None };
        let free_input = strict.and_then(|strict| strict.free_input).map(|input| input.precision);
        let sweeping = strict.is_some_and(|strict| strict.solver == Solver::Sweeps);
        // Where layers are relaxed as soon as they are pushed.
        let fuses = !sweeping && !matches!(method, Method::ErrorBased(_));
        let mut plan = Plan::new(network, level, layout, convolutions, batch, fuses, free_input);
        if strict.is_some_and(Strict::is_centred) {
            plan.sizes.row *= 2;
        }
        let layers = plan.layers.len();
        if let Some(eta @ Eta::PerLayer(etas)) = method.eta() {
            if etas.len() != layers - 1 {
                return Err(Error::Argument(format!(
                    "found {} step sizes, expected {}: one for each hidden layer",
                    etas.len(),
                    layers - 1
                )));
            }
            plan.layers.iter_mut().zip(&etas[..]).for_each(|(layer, own)| layer.rate = own / eta.largest());
            plan.input.rate = plan.layers[0].rate;
        }
        let precisions = network.precisions();
        let multiples = network.multiples(method).map(|shares| {
            let unweighted = |c: &[f64]| c.iter().zip(&precisions).map(|(c, precision)| c / precision).collect();
            let [errors, moves] = shares.each_ref().map(|c| unweighted(c));
            let [weighted, _] = shares;
            Multiples { weighted, errors, moves }
        });
        if let (Method::FixedPrediction(FixedPrediction { eta, iterations, .. }), Some(multiples)) =
            (method, &multiples)
        {
            let Multiples { weighted, moves, .. } = multiples;
            if weighted.iter().chain(moves).any(|&share| !(share as f32).is_finite()) {
                return Err(Error::Argument(format!(
                    "fixed-prediction with eta {eta} and {iterations} iterations diverges in {layers} layers: its \
                     errors are beyond all numbers; use an eta that, times every precision, is at most 1"
                )));
            }
        }
        let literal = matches!(method, Method::FixedPrediction(FixedPrediction { literal: true, .. }));
        let multiples = match method {
            Method::Exact => multiples.map(|_| {
                let ones = vec![1.0; layers];
                Multiples { weighted: ones.clone(), errors: ones.clone(), moves: ones }
            }),
            _ => multiples.filter(|_| !literal),
        };
        let tiles = batch.div_ceil(plan.images);
        let most = (GROUP_BYTES / size_of::<f32>() / plan.sizes.partial.max(1)).clamp(1, tiles);
        let most = if layout.is_channels() { most.min(MOST_GROUPS) } else { most };
        let fewest = options.groups.unwrap_or(1).clamp(1, tiles);
        let tiles_per_group = tiles.div_ceil(most).min(tiles / fewest);
        let groups = tiles.div_ceil(tiles_per_group).div_ceil(shares);
        let threads = pool_threads().max(std::thread::available_parallelism().map_or(1, usize::from));
        let tasks = threads.min(groups);
        let products = method.products();
        let settling = !sweeping && strict.is_some_and(|strict| strict.tolerance.is_some());
        let extras = Extras { products, settling, sweeping, moving: Moving::new(method) };
        let scratch_len = Scratch::len(&plan, extras);
        let estimates = products > 0 && plan.hidden_len() > 0;
        let parameters = network.parameters().last().map_or(0, |spec| spec.range.end);
        let rows_len = tiles.checked_mul(plan.images).and_then(|rows| rows.checked_mul(plan.sizes.row));
        let open_len = if estimates { Open::len(&plan) } else { 0 };
        let changing = if incremental { 2 * parameters + plan.sizes.packed } else { 0 };
        let fixed = open_len + changing + plan.sizes.packed + parameters + threads * plan.sizes.gemm_scratch;
        let group_len = plan.sizes.partial + Descent::len(layers, plan.images);
        let total = tiles
            .min(groups * tiles_per_group)
            .checked_mul(Tile::len(&plan, incremental))
            .and_then(|len| len.checked_add(rows_len?)?.checked_add(groups.checked_mul(group_len)?))
            .and_then(|len| len.checked_add(tasks.checked_mul(scratch_len)?)?.checked_add(fixed));
        Ok(Draft { plan, multiples, tiles, tiles_per_group, groups, tasks, threads, extras, estimates, total })
    }
}

/// Refuses a plan whose buffers, of so many elements together, the machine cannot hold: by asking
/// for them in one piece, which is given back at once.
pub(super) fn check_memory(batch: usize, elements: Option<usize>) -> Result<()> {
    match elements.map(|elements| Vec::<f32>::new().try_reserve_exact(elements)) {
        Some(Ok(())) => Ok(()),
        _ => {
            let size = elements.map_or("too many bytes to count".into(), |elements| {
                format!("{:.0} GiB", elements as f64 * size_of::<f32>() as f64 / f64::from(1 << 30))
            });
            Err(Error::Argument(format!(
                "a session for this network and a batch of {batch} needs {size}, more than this machine has; use a \
                 smaller batch"
            )))
        }
    }
}
