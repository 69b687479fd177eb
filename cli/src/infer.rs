//! `infer`: one batch, its beliefs, errors and gradients.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use predictive_coding::{
    BatchFile, Error, Layer, Method, Network, Op, Parameters, Quantity, Session, StartFile, write_tensors,
};
use serde_json::{Value, json};

use crate::console::{Failure, note, print};
use crate::descents::Descents;
use crate::figure::{self, Content, Map, Sheet, channel_norms, largest};
use crate::machine::{check_memory, check_session, on_threads};
use crate::optimizing::Incrementing;
use crate::options::{MethodName, Threads, load_weights};
use crate::relaxing::{INFERENCE_PRODUCTS, Relaxing, adapts, settings, strict, title, warn_of_unreached};
use crate::report;
use crate::timing::median;
use crate::trace;
use crate::writable;

/// Samples that maps are made of.
const MOST_SAMPLES: usize = 8;
/// Pixels of a row or column of a map.
const MOST_SIDE: usize = 2048;

/// Compute the beliefs, errors and gradients of one batch.
///
/// The file of --output holds f32 tensors: loss (one value), activation.l and error.l for the layers l = 1..L,
/// deviation.l (belief minus activation) and belief.l for l = 1..L-1, each of shape [batch, shape of the layer], and
/// grad.<parameter> in the shape of the parameter. incremental has parameter.<parameter> instead, as they are at the end.
#[derive(Args, Clone, Debug)]
pub struct Infer {
    /// Number of repetitions, for timing
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    #[command(flatten)]
    threads: Threads,
    /// Model file
    #[arg(long, value_name = "M", help_heading = "Network and data")]
    model: PathBuf,
    /// Weights: safetensors with one tensor per parameter, named <layer>.<operation>.weight or .bias, counted from 0
    #[arg(long, value_name = "W", help_heading = "Network and data")]
    weights: PathBuf,
    /// Batch: safetensors with x (f32 [batch, input]) and y (i64 [batch], labels, or f32 [batch, outputs])
    #[arg(long, value_name = "B", help_heading = "Network and data")]
    batch: PathBuf,
    /// How errors and gradients are computed
    #[arg(long, value_enum, help_heading = "Relaxation")]
    method: MethodName,
    #[command(flatten)]
    relaxing: Relaxing,
    /// The same as --belief-momentum
    #[arg(long, value_name = "M", conflicts_with = "belief_momentum", allow_hyphen_values = true, hide = true)]
    momentum: Option<f64>,
    #[command(flatten)]
    incrementing: Incrementing,
    /// File for the results, as safetensors
    #[arg(long, value_name = "O", help_heading = "Output")]
    output: Option<PathBuf>,
    /// strict: initial beliefs, safetensors with deviation.l or belief.l for any of the layers l = 1..L-1
    #[arg(long, value_name = "I", help_heading = "Relaxation")]
    initial: Option<PathBuf>,
    /// Directory for maps of activations, beliefs and errors
    ///
    /// Each layer with pixels gets a PNG and an SVG with a row for each of the first 8 samples. A map shows the norm over
    /// the channels; dark is 0. Layers have at most 2048 pixels per row or column.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    maps: Option<PathBuf>,
    /// Directory for trace.csv and a picture of it; for strict, error-based and incremental
    ///
    /// The trace has the energy of each layer and the norm of the gradient of the energy, before each update: by all
    /// beliefs that are not clamped, or by all errors where those are what moves. The loss is multiplied by the nudge; the
    /// energy of a free input is with that of layer 1.
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    trace: Option<PathBuf>,
    /// Print settings, loss, times and rates as one line of JSON
    ///
    /// eta is the given step size, a number or "auto". These are null for exact and fixed-prediction: iterations_used,
    /// the largest number of iterations of a sample; diverged, the number of samples that diverged; eta_range,
    /// lambda_max and share_of_limit (the latter two with auto), the smallest and the largest of all samples.
    /// share_of_limit is eta lambda_max / 2: a relaxation is unstable from 1 on. flops counts the iterations that were
    /// run and the products that estimate lambda_max.
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Exit with status 0 even if a strict relaxation diverged
    #[arg(long, help_heading = "Relaxation")]
    allow_divergence: bool,
}

impl Infer {
    pub fn run(mut self) -> Result<(), Failure> {
        self.relaxing.belief_momentum = self.relaxing.belief_momentum.or(self.momentum);
        let threads = self.threads.count();
        on_threads(threads, || self.infer())
    }

    fn infer(&self) -> Result<(), Failure> {
        self.relaxing.check(Some(self.method))?;
        if self.method != MethodName::Exact && !self.relaxing.is_complete() {
            return Err(Failure::usage(
                "all methods but exact need both --eta and --iterations, for example 0.1 and 20",
            ));
        }
        if self.incrementing.is_given() && self.method != MethodName::Incremental {
            return Err(Failure::usage(
                "--optimizer, --lr or --weight-decay was given, but is only for --method incremental; leave it out",
            ));
        }
        let (method, options) = (self.relaxing.method(self.method, INFERENCE_PRODUCTS)?, self.relaxing.options());
        if self.initial.is_some() && self.method != MethodName::Strict {
            return Err(Failure::usage("--initial was given, but is only for --method strict; leave it out"));
        }
        let network = Network::from_file(&self.model)?;
        check_memory(&network, 1)?;
        let parameters = load_weights(&network, &self.weights)?;
        let batch = BatchFile::read(&network, &self.batch)?;
        check_memory(&network, batch.samples)?;
        let initial = match &self.initial {
            Some(path) => Some(StartFile::read(&network, batch.samples, path)?),
            None => None,
        };
        let starts = initial.as_ref().map_or(Vec::new(), StartFile::starts);
        if let Some(output) = &self.output {
            let inputs = [("--model", Some(&self.model)), ("--weights", Some(&self.weights))];
            let inputs =
                inputs.into_iter().chain([("--batch", Some(&self.batch)), ("--initial", self.initial.as_ref())]);
            writable::apart(output, inputs.filter_map(|(name, path)| Some((name, path?.as_path()))))?;
            writable::file(output)?;
        }
        if let Some(directory) = &self.maps {
            if network.layers().iter().all(|layer| pixels(layer).is_none()) {
                return Err(Failure::usage("--maps was given, but no layer of the model has pixels; leave it out"));
            }
            for (number, layer) in (1..).zip(network.layers()) {
                pixels(layer).map_or(Ok(()), |size| check_side(number, size))?;
            }
            writable::directory(directory)?;
        }
        if let Some(directory) = &self.trace {
            if matches!(method, Method::Exact | Method::FixedPrediction(_)) {
                return Err(Failure::usage(
                    "--trace was given, but is only for --method strict, error-based and incremental; leave it out",
                ));
            }
            writable::directory(directory)?;
        }
        check_session(&network, batch.samples, &method, &options)?;
        let mut session = Session::new(&network, batch.samples, &method, options)?;
        if starts.is_empty() {
            warn_of_unreached(&method, &network);
        }

        let mut seconds = Vec::new();
        let mut stepped = parameters.clone();
        let mut run = |session: &mut Session| -> Result<Result<f32, Error>, Failure> {
            if let Method::Incremental(_) = &method {
                stepped.values_mut().copy_from_slice(parameters.values());
                let mut optimizer = self.incrementing.build(&parameters)?;
                return Ok(session.learn(&mut stepped, &mut *optimizer, &batch.x, &batch.y));
            }
            let conditions = batch.conditions(self.relaxing.free_input).with_start(&starts);
            Ok(session.infer_with(&parameters, &batch.x, &batch.y, conditions))
        };
        let mut loss = Ok(0.0);
        for _ in 0..self.repeat {
            let started = Instant::now();
            loss = run(&mut session)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        if self.trace.is_some() {
            // Not while the clock runs.
            session.record_trace(true)?;
            loss = run(&mut session)?;
        }

        let descents = Descents::of(&session, &method);
        let divergence = match loss {
            Ok(_) => None,
            Err(Error::Diverged(divergence)) => Some(divergence),
            Err(error) => return Err(Failure::run(error)),
        };
        let loss = session.loss();
        if let Some(path) = &self.output {
            let (prefix, values) = match method {
                Method::Incremental(_) => ("parameter", &stepped),
                _ => ("grad", session.gradients()),
            };
            let mut tensors = tensors(&network, &session, prefix, values)?;
            tensors.push(("loss".into(), vec![1], vec![loss]));
            write_tensors(path, &tensors).map_err(Failure::run)?;
        }
        if let Some(directory) = &self.trace {
            trace::write(directory, &network, &session)?;
        }
        if let Some(directory) = &self.maps {
            for (number, layer) in (1..).zip(network.layers()) {
                if let Some(size) = pixels(layer) {
                    let settings = format!("{}, {} loss", title(&method), network.loss());
                    let sheet = maps(&session, number, number < network.layers().len(), size, settings)?;
                    figure::write(&directory.join(format!("layer-{number}")), &sheet.scene())?;
                }
            }
        }
        if self.json {
            print(&self.report(&network, &session, &method, &seconds).to_string())?;
        } else {
            let told = descents.filter(|_| adapts(&method));
            let told = told.map_or(String::new(), |descents| format!("\n{descents}"));
            print(&format!("loss {loss}{told}"))?;
        }
        let Some(divergence) = divergence else { return Ok(()) };
        let kept =
            self.output.as_ref().map_or(String::new(), |path| format!("; the results are in {}", path.display()));
        let told = format!("{divergence}; all iterations were run{kept}");
        match self.allow_divergence {
            true => {
                note(&format!("warning: {told}"));
                Ok(())
            }
            false => Err(Failure::run(format!("{told}; use --allow-divergence to exit with status 0"))),
        }
    }

    /// Settings, loss, times and rates.
    fn report(&self, network: &Network, session: &Session, method: &Method, seconds: &[f64]) -> Value {
        let descents = Descents::of(session, method);
        let median = median(seconds);
        let flops = flops_done(network, session, method);
        let mut report = settings(method);
        report::merge(
            &mut report,
            json!({
                "batch": session.samples(),
                "threads": rayon::current_num_threads(),
                "level": session.level().name(),
                "layout": session.layout().name(),
                "loss": session.loss(),
                "iterations_used": descents.map(|descents| descents.iterations),
                "diverged": descents.map(|descents| descents.diverged),
                "lambda_max": descents.and_then(|descents| descents.lambda_max),
                "share_of_limit": descents.and_then(|descents| descents.share_of_limit),
                "eta_range": descents.and_then(|descents| descents.eta),
                "median_seconds": median,
                "min_seconds": seconds[0],
                "flops": flops,
                "gflops": flops as f64 * 1e-9 / median,
                "peak_gflops": predictive_coding_kernels::fma_peak(session.level()),
            }),
        );
        report
    }
}

/// The multiplications and additions of the session's last call: a tile iterates until all of its samples have settled.
fn flops_done(network: &Network, session: &Session, method: &Method) -> u64 {
    let Some(strict) = strict(method) else { return network.flops(method, session.samples()) };
    let used: Vec<usize> = session.descents().map(|descent| descent.iterations).collect();
    let tiles = used.chunks(session.layout().images(session.level()));
    let of_tile = |tile: &[usize]| {
        let iterations = tile.iter().copied().max().unwrap_or(0);
        network.flops(&strict.clone().with_iterations(iterations).into(), tile.len())
    };
    tiles.map(of_tile).fold(0, u64::saturating_add)
}

/// Height and width of what a layer puts out, before it is flattened, if it has several pixels.
fn pixels(layer: &Layer) -> Option<[usize; 2]> {
    let unflattened = layer.all_ops().collect::<Vec<_>>();
    let flattened = unflattened.iter().rev().take_while(|(op, _)| matches!(op, Op::Flatten)).last();
    match *flattened.map_or(layer.output_shape(), |(_, shape)| shape) {
        [_, height, width] if height * width > 1 => Some([height, width]),
        _ => None,
    }
}

/// Refuses a layer whose maps no picture holds.
fn check_side(layer: usize, size: [usize; 2]) -> Result<(), Failure> {
    match size.into_iter().max().filter(|&side| side > MOST_SIDE) {
        None => Ok(()),
        Some(side) => Err(Failure::usage(format!(
            "--maps was given, but layer {layer} has {side} pixels in a row or column; expected at most {MOST_SIDE}; leave it out"
        ))),
    }
}

/// The maps of a layer (from 1), a row for each of the first samples.
fn maps(
    session: &Session,
    layer: usize,
    hidden: bool,
    [height, width]: [usize; 2],
    settings: String,
) -> Result<Sheet, Error> {
    let elements = session.elements(layer);
    let norms = |name: &'static str, quantity| -> Result<(&'static str, Vec<Vec<f64>>), Error> {
        let values = session.get(quantity, layer)?;
        let samples = values.chunks_exact(elements).take(MOST_SAMPLES);
        Ok((name, samples.map(|values| channel_norms(values, height * width)).collect()))
    };
    let mut quantities = vec![norms("activation", Quantity::Activation)?];
    if hidden {
        // The two hardly differ: they have one scale, and their difference has a map of its own.
        quantities.push(norms("belief", Quantity::Belief)?);
        quantities.push(norms("belief - activation", Quantity::Deviation)?);
    }
    quantities.push(norms("error", Quantity::Error)?);
    let row = |sample: usize| {
        let both = largest(quantities.iter().take(if hidden { 2 } else { 1 }).flat_map(|(_, norms)| &norms[sample]));
        let map = |(name, norms): &(&str, Vec<Vec<f64>>)| {
            let values = norms[sample].clone();
            let largest = if ["activation", "belief"].contains(name) { both } else { largest(&values) };
            let caption = if *name == "activation" { format!("sample {sample}: {name}") } else { (*name).into() };
            Map { caption, width, height, content: Content::Values { values, largest } }
        };
        quantities.iter().map(map).collect()
    };
    let rows = (0..session.samples().min(MOST_SAMPLES)).map(row).collect();
    Ok(Sheet {
        title: format!("Layer {layer}: norms over the channels"),
        settings: format!("{settings}; a row for each of the first samples"),
        rows,
    })
}

/// A name, a shape and values.
type Tensor = (String, Vec<usize>, Vec<f32>);

/// Everything that the session holds, by name, with the batch as the first axis, and what there is of each parameter.
fn tensors(network: &Network, session: &Session, prefix: &str, parameters: &Parameters) -> Result<Vec<Tensor>, Error> {
    let layers = network.layers();
    let mut tensors = Vec::new();
    if strict(session.method()).is_some_and(|strict| strict.free_input.is_some()) {
        for (name, quantity) in [("deviation.0", Quantity::Deviation), ("belief.0", Quantity::Belief)] {
            let shape = [&[session.samples()], network.input_shape()].concat();
            tensors.push((name.into(), shape, session.get(quantity, 0)?));
        }
    }
    for (l, layer) in (1..).zip(layers) {
        let hidden = l < layers.len();
        for (name, quantity, present) in [
            ("activation", Quantity::Activation, true),
            ("error", Quantity::Error, true),
            ("deviation", Quantity::Deviation, hidden),
            ("belief", Quantity::Belief, hidden),
        ] {
            if present {
                let shape = [&[session.samples()], layer.output_shape()].concat();
                tensors.push((format!("{name}.{l}"), shape, session.get(quantity, l)?));
            }
        }
    }
    // Running statistics have no gradients.
    let parameters = parameters.iter().filter(|(spec, _)| prefix != "grad" || spec.role.is_trained());
    tensors.extend(
        parameters.map(|(spec, values)| (format!("{prefix}.{}", spec.name), spec.shape.clone(), values.to_vec())),
    );
    Ok(tensors)
}
