//! Figures 8 and 9: where in an image the activations, gradients, beliefs and errors of VGG-19 lie.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use predictive_coding::{
    Error, Method, Network, Options, Parameters, Quantity, Session, Start, StartFile, Strict, write_tensors,
};
use serde_json::json;

use super::Reproduce;
use super::pictures::Picture;
use super::state::State;
use super::vgg::{self, Size};
use crate::console::{Failure, note, print};
use crate::figure::{self, Content, Map, Sheet, channel_norms, largest};
use crate::machine::{self, check_memory};
use crate::progress::Progress;
use crate::table::table;
use crate::{interrupt, report};

const ETA: f64 = 0.05;
const ITERATIONS: u32 = 500;
/// Of a quick run: enough for errors to reach layer 1.
const QUICK: u32 = 25;
/// Iterations between looks at Ctrl-C. Each such part adds a forward pass and a set of gradients.
const PART: usize = 10;
/// How often the state is kept.
const KEEP_EVERY: Duration = Duration::from_secs(300);
/// The most images: one vector of the widest level.
const MOST_IMAGES: usize = 16;

/// The images with the labels that are asked for.
struct Samples {
    pictures: Vec<Picture>,
    labels: Vec<i64>,
    x: Vec<f32>,
    /// What each is called.
    names: Vec<String>,
}

pub fn run(asked: &Reproduce) -> Result<(), Failure> {
    let size = if asked.quick { Size::SMALL } else { Size::FULL };
    let layers: &[usize] = if asked.figure == Some(8) { &[1, 10] } else { &[10] };
    let default = if asked.quick { QUICK } else { ITERATIONS };
    let iterations = asked.iterations.unwrap_or(default) as usize;
    let network = vgg::network(size)?;
    let pictures = pictures(asked, size.side)?;
    check_memory(&network, MOST_IMAGES)?;
    let parameters = match &asked.weights {
        Some(path) => vgg::load(&network, path)?,
        None => vgg::random(&network, asked.seed),
    };
    let weights = match &asked.weights {
        Some(path) => path.file_name().map_or("a file".into(), |name| name.to_string_lossy().into_owned()),
        None => format!("random weights, seed {}", asked.seed),
    };

    let mut exact = Session::new(&network, MOST_IMAGES.min(2 * pictures.len()), Method::Exact, Options::default())?;
    let samples = samples(asked, &network, &parameters, &mut exact, pictures)?;
    exact.infer(&parameters, &samples.x, &samples.labels).map_err(Failure::run)?;
    let level = exact.level().name();
    let gradients: Vec<Vec<f32>> =
        layers.iter().map(|&layer| exact.get(Quantity::Error, layer)).collect::<Result<_, _>>()?;
    drop(exact);

    let (strict, energies) = relax(asked, &network, &parameters, &samples, iterations, &weights)?;
    let maps: Vec<Vec<Field>> = layers
        .iter()
        .zip(gradients)
        .map(|(&layer, gradient)| {
            let shape = network.layers()[layer - 1].output_shape();
            let field = |quantity, values: Vec<f32>| Field::new(layer, quantity, shape, &values);
            Ok(Vec::from([
                field("activation", strict.get(Quantity::Activation, layer)?),
                field("belief", strict.get(Quantity::Belief, layer)?),
                field("deviation", strict.get(Quantity::Deviation, layer)?),
                field("gradient", gradient),
                field("error", strict.get(Quantity::Error, layer)?),
            ]))
        })
        .collect::<Result<_, predictive_coding::Error>>()?;
    drop(strict);
    let network_name = if asked.quick { "small VGG-19" } else { "VGG-19" };
    let title = format!("{network_name} with {weights}: strict (η = {ETA}, n = {iterations})");
    figure::write(&asked.file(), &sheet(title, &samples, &maps).scene())?;
    let rows = rows(&samples, &maps);
    report::write_csv(&asked.file().with_extension("csv"), &rows)?;
    let tensors: Vec<_> = maps
        .iter()
        .flatten()
        .map(|map| {
            let name = format!("{}.{}", map.quantity, map.layer);
            let norms = map.norms.concat().into_iter().map(|norm| norm as f32).collect();
            (name, vec![map.norms.len(), map.height, map.width], norms)
        })
        .collect();
    write_tensors(asked.file().with_extension("safetensors"), &tensors).map_err(Failure::run)?;
    let description = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "figure": asked.figure,
        "quick": asked.quick,
        "model": network.to_toml(),
        "weights": weights,
        "images": samples.names,
        "targets": samples.labels,
        "method": "strict",
        "eta": ETA,
        "iterations": iterations,
        "energy": energies,
        "seed": asked.seed,
        "threads": rayon::current_num_threads(),
        "level": level,
        "machine": machine::describe(),
    });
    report::write_json(&asked.out().join("run.json"), &description)?;
    let header: Vec<&str> = rows[0].iter().map(String::as_str).collect();
    let name = asked.name();
    print(&format!(
        "{}\n\nWritten to {}: {name}.csv, {name}.png, {name}.svg, {name}.safetensors, run.json",
        table(&header, &rows[1..]),
        asked.out().display()
    ))
}

fn pictures(asked: &Reproduce, side: usize) -> Result<Vec<Picture>, Failure> {
    let most = if asked.figure == Some(8) { MOST_IMAGES } else { 1 };
    if asked.images.len() > most {
        return Err(Failure::usage(format!(
            "{} images were given, expected at most {most} for {}",
            asked.images.len(),
            asked.name()
        )));
    }
    let mut pictures = match asked.images.is_empty() {
        true => Vec::from(Picture::patterns(side)),
        false => asked.images.iter().map(|path| Picture::read(path, side)).collect::<Result<_, _>>()?,
    };
    pictures.truncate(most);
    Ok(pictures)
}

/// Each image with the network's first guess as its target, for figure 9 also with the second.
fn samples(
    asked: &Reproduce,
    network: &Network,
    parameters: &Parameters,
    session: &mut Session,
    pictures: Vec<Picture>,
) -> Result<Samples, Failure> {
    let x: Vec<f32> = pictures.iter().flat_map(Picture::input).collect();
    session.forward(parameters, &x, &vec![0i64; pictures.len()]).map_err(Failure::run)?;
    let layers = network.layers().len();
    let outputs = session.get(Quantity::Activation, layers)?;
    let guesses = outputs.chunks(session.elements(layers)).map(|outputs| {
        let mut order: Vec<usize> = (0..outputs.len()).collect();
        order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]));
        [order[0] as i64, order[1] as i64]
    });
    let guesses: Vec<[i64; 2]> = guesses.collect();
    if asked.figure == Some(8) {
        let names = pictures.iter().map(|picture| picture.name.clone()).collect();
        return Ok(Samples { pictures, labels: guesses.iter().map(|guess| guess[0]).collect(), x, names });
    }
    let picture = pictures.into_iter().next().expect("figure 9 has an image");
    let again = Picture { name: picture.name.clone(), pixels: picture.pixels.clone() };
    Ok(Samples {
        labels: guesses[0].to_vec(),
        names: vec![format!("{}, first guess", picture.name), format!("{}, second guess", picture.name)],
        pictures: vec![picture, again],
        x: x.repeat(2),
    })
}

/// The session after all iterations, and the energies of the first and of the last.
fn relax(
    asked: &Reproduce,
    network: &Network,
    parameters: &Parameters,
    samples: &Samples,
    iterations: usize,
    weights: &str,
) -> Result<(Session, [f64; 2]), Failure> {
    let count = samples.labels.len();
    let settings = json!({
        "weights": weights,
        "images": samples.names,
        "targets": samples.labels,
        "quick": asked.quick,
        "seed": asked.seed,
        "eta": ETA,
    });
    let mut relaxed = Relaxed::read(State::new(asked, settings), network, count, iterations);
    let method = |iterations: usize| Method::from(Strict::new(ETA, iterations));
    let work = |part: usize| network.flops(&method(part), count);
    let mut bar = Progress::new(work(iterations).max(1));
    bar.set_prefix("strict");
    bar.advance(work(relaxed.iterations));
    let mut kept = Instant::now();
    loop {
        let part = PART.min(iterations - relaxed.iterations);
        let mut session = Session::new(network, count, method(part), Options::default())?;
        session.record_energies(true)?;
        let starts: Vec<Start> = relaxed.beliefs.iter().map(|u| Start::Deviation(u)).collect();
        match session.infer_from(parameters, &samples.x, &samples.labels, &starts) {
            // Whether it climbs is to be seen over all parts.
            Ok(_) | Err(Error::Diverged(_)) => {}
            Err(error) => return Err(Failure::run(error)),
        }
        relaxed.iterations += part;
        let energies = session.energies();
        let start = *relaxed.start.get_or_insert(energies[0]);
        bar.work(work(part), format!("iteration {}/{iterations}", relaxed.iterations));
        if relaxed.iterations == iterations {
            bar.finish();
            relaxed.remove();
            let energies = [start, energies[part - 1]];
            if energies[1].is_nan() || energies[1] > start {
                note(&format!(
                    "warning: the energy rose to {:e}, from {start:e} at the start; the relaxation diverged",
                    energies[1]
                ));
            }
            return Ok((session, energies));
        }
        let hidden = network.layers().len() - 1;
        relaxed.beliefs =
            (1..=hidden).map(|layer| session.get(Quantity::Deviation, layer)).collect::<Result<_, _>>()?;
        if interrupt::asked() || kept.elapsed() > KEEP_EVERY {
            relaxed.write(network, count)?;
            kept = Instant::now();
        }
        if interrupt::asked() {
            bar.finish();
            return Err(asked.stopped(&format!("after iteration {}", relaxed.iterations)));
        }
    }
}

/// How far a relaxation has come.
struct Relaxed {
    state: State,
    iterations: usize,
    /// The energy at v-hat.
    start: Option<f64>,
    /// Deviations of the hidden layers; none at v-hat.
    beliefs: Vec<Vec<f32>>,
}

impl Relaxed {
    /// As far as an earlier run came that did not go beyond `most` iterations.
    fn read(state: State, network: &Network, samples: usize, most: usize) -> Self {
        let kept = state.read().and_then(|kept| {
            let iterations = kept["iterations"].as_u64().map(|kept| kept as usize).filter(|&kept| kept < most)?;
            Some((iterations, kept["start"].as_f64(), Self::beliefs(&state, network, samples, iterations)?))
        });
        let (iterations, start, beliefs) = kept.unwrap_or_default();
        Relaxed { state, iterations, start, beliefs }
    }

    fn beliefs(state: &State, network: &Network, samples: usize, kept: usize) -> Option<Vec<Vec<f32>>> {
        let file = StartFile::read(network, samples, Self::file(state, kept)).ok()?;
        let beliefs = file.starts().into_iter().filter_map(|start| match start {
            Start::Deviation(values) => Some(values.to_vec()),
            _ => None,
        });
        let beliefs: Vec<Vec<f32>> = beliefs.collect();
        (beliefs.len() + 1 == network.layers().len()).then_some(beliefs)
    }

    /// The file of the beliefs is named after their iteration, so that an older one is there until the state names
    /// the newer.
    fn file(state: &State, iterations: usize) -> PathBuf {
        state.file(&format!("{iterations}.safetensors"))
    }

    fn write(&self, network: &Network, samples: usize) -> Result<(), Failure> {
        let tensors: Vec<_> = (1..)
            .zip(&self.beliefs)
            .map(|(layer, values)| {
                let shape = [&[samples], network.layers()[layer - 1].output_shape()].concat();
                (format!("deviation.{layer}"), shape, values.clone())
            })
            .collect();
        write_tensors(Self::file(&self.state, self.iterations), &tensors).map_err(Failure::run)?;
        let older = self.state.read().and_then(|kept| kept["iterations"].as_u64());
        self.state.write(json!({ "iterations": self.iterations, "start": self.start }))?;
        if let Some(older) = older.map(|older| older as usize).filter(|&older| older != self.iterations) {
            let _ = std::fs::remove_file(Self::file(&self.state, older));
        }
        Ok(())
    }

    fn remove(&self) {
        if let Some(kept) = self.state.read().and_then(|kept| kept["iterations"].as_u64()) {
            let _ = std::fs::remove_file(Self::file(&self.state, kept as usize));
        }
        self.state.remove();
    }
}

/// A quantity of a layer: for each sample the norms over the channels, `[height][width]`.
struct Field {
    layer: usize,
    quantity: &'static str,
    height: usize,
    width: usize,
    norms: Vec<Vec<f64>>,
}

impl Field {
    /// Of `[samples][channels][height][width]`.
    fn new(layer: usize, quantity: &'static str, shape: &[usize], values: &[f32]) -> Self {
        let &[channels, height, width] = shape else { unreachable!("layers 1 and 10 are convolutions") };
        let pixels = height * width;
        let norms = values.chunks_exact(channels * pixels).map(|sample| channel_norms(sample, pixels));
        Field { layer, quantity, height, width, norms: norms.collect() }
    }
}

/// For each sample a row of maps per layer, with the image in front. Activations and beliefs have one scale.
fn sheet(title: String, samples: &Samples, maps: &[Vec<Field>]) -> Sheet {
    let rows = samples.pictures.iter().zip(&samples.names).enumerate().flat_map(|(i, (picture, name))| {
        maps.iter().map(move |fields| {
            let image = Map {
                caption: format!("{name}: class {}", samples.labels[i]),
                width: picture.pixels.width as usize,
                height: picture.pixels.height as usize,
                content: Content::Image(picture.pixels.rgb.clone()),
            };
            let shares = |field: &Field| ["activation", "belief"].contains(&field.quantity);
            let shared = largest(fields.iter().filter(|field| shares(field)).flat_map(|field| &field.norms[i]));
            let fields = fields.iter().map(move |field| Map {
                caption: format!("{}, layer {}", field.quantity, field.layer),
                width: field.width,
                height: field.height,
                content: Content::Values {
                    values: field.norms[i].clone(),
                    largest: if shares(field) { shared } else { largest(&field.norms[i]) },
                },
            });
            std::iter::once(image).chain(fields).collect()
        })
    });
    let settings = "norms over the channels; deviation: belief - activation; gradient: by backpropagation";
    Sheet { title, settings: settings.into(), rows: rows.collect() }
}

/// The size of each map, and how alike it is to that of the gradient.
fn rows(samples: &Samples, maps: &[Vec<Field>]) -> Vec<Vec<String>> {
    let header = ["image", "target", "layer", "quantity", "norm", "largest", "correlation_with_gradient"];
    let mut rows = vec![header.map(String::from).to_vec()];
    for (i, name) in samples.names.iter().enumerate() {
        for fields in maps {
            let gradient = fields.iter().find(|field| field.quantity == "gradient").map(|field| &field.norms[i]);
            for field in fields {
                let norms = &field.norms[i];
                rows.push(vec![
                    name.clone(),
                    samples.labels[i].to_string(),
                    field.layer.to_string(),
                    field.quantity.to_string(),
                    format!("{:.4e}", norms.iter().map(|norm| norm * norm).sum::<f64>().sqrt()),
                    format!("{:.4e}", norms.iter().copied().fold(0.0, f64::max)),
                    gradient.map_or(String::new(), |gradient| format!("{:.4}", correlation(norms, gradient))),
                ]);
            }
        }
    }
    rows
}

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_by_hand() {
        assert!((correlation(&[1.0, 2.0, 3.0], &[10.0, 20.0, 30.0]) - 1.0).abs() < 1e-12);
        assert!((correlation(&[1.0, 2.0, 1.0], &[0.0, -1.0, 0.0]) + 1.0).abs() < 1e-12);
    }
}
