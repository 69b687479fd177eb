//! `predict`: the outputs of trained weights for inputs without targets, or for inputs that relax to given targets.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use predictive_coding::{
    BatchFile, FreeInput, Network, Options, Parameters, Quantity, Session, Strict, write_atomically,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::arrays;
use crate::console::{Failure, print};
use crate::machine::{check_memory, check_session, forward_session, on_threads};
use crate::options::{Threads, load_weights};
use crate::pixels::Pixels;
use crate::training::largest;
use crate::writable;

/// What is told of each sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The index of the largest output
    Labels,
    /// The softmax of the outputs
    Probabilities,
    /// The outputs themselves
    Logits,
    /// The inputs as they are at the end; needs --free-input
    Inputs,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Labels => "labels",
            What::Probabilities => "probabilities",
            What::Logits => "logits",
            What::Inputs => "inputs",
        }
    }
}

/// Predict labels, probabilities or outputs for inputs.
///
/// Prints one line per sample, with commas between numbers. With --output, writes a safetensors file instead, which
/// holds labels (i64 [samples]), probabilities or logits (f32 [samples, outputs]), or inputs (f32 [samples, inputs]).
///
/// With --free-input, the inputs first relax to given targets: the latent of an image, what is missing in an input, an
/// input for a label. The predictions are then the outputs of the forward pass from these inputs.
#[derive(Args, Clone, Debug)]
pub struct Predict {
    /// Model file
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Weights, in the format of infer
    #[arg(long, value_name = "W")]
    weights: PathBuf,
    /// Inputs: a .safetensors or .npz file with x, a .npy file, or PNG and JPEG files
    ///
    /// x has shape [samples, input of the model]; bytes are divided by 255. Images are resized to the input of the model,
    /// which must have 1 or 3 channels or be a flat square; pixels are divided by 255.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// What to predict
    #[arg(long = "as", value_enum, default_value = "labels", value_name = "WHAT")]
    what: What,
    /// File for the results, as safetensors, instead of printing them
    #[arg(long, value_name = "O")]
    output: Option<PathBuf>,
    /// Number of samples per forward pass
    #[arg(long, default_value_t = 64, conflicts_with = "free_input", value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Relax the inputs by strict; the file of --input is then one batch of infer
    ///
    /// It is a .safetensors file with x, where the inputs start, the targets y, and, if parts of them are known,
    /// input_mask and mask (1 clamped, 0 free).
    #[arg(long, requires_all = ["eta", "iterations"])]
    free_input: bool,
    /// Step size of the relaxation
    #[arg(long, requires = "free_input", allow_hyphen_values = true)]
    eta: Option<f64>,
    /// Number of iterations of the relaxation
    #[arg(long, value_name = "N", requires = "free_input")]
    iterations: Option<usize>,
    /// Precision that ties a free input to x [default: 0]
    #[arg(long, value_name = "P", requires = "free_input", allow_hyphen_values = true)]
    input_precision: Option<f64>,
    #[command(flatten)]
    threads: Threads,
}

impl Predict {
    pub fn run(self) -> Result<(), Failure> {
        let threads = self.threads.count();
        on_threads(threads, || self.predict())
    }

    fn predict(&self) -> Result<(), Failure> {
        if self.what == What::Inputs && !self.free_input {
            return Err(Failure::usage("--as inputs was given, but inputs only change with --free-input; add it"));
        }
        let network = Network::from_file(&self.model)?;
        check_memory(&network, 1)?;
        let parameters = load_weights(&network, &self.weights)?;
        if let Some(output) = &self.output {
            let inputs = self.input.iter().map(|path| ("--input", path.as_path()));
            let others = [("--model", self.model.as_path()), ("--weights", self.weights.as_path())];
            writable::apart(output, inputs.chain(others))?;
            writable::file(output)?;
        }
        let x = match (self.eta, self.iterations) {
            (Some(eta), Some(iterations)) => self.relaxed(&network, &parameters, eta, iterations)?,
            _ => self.inputs(&network)?,
        };
        let elements = network.input_shape().iter().product::<usize>();
        let samples = x.len() / elements;
        let batch = usize::try_from(self.batch).unwrap_or(usize::MAX).min(samples);
        let mut session = forward_session(&network, batch)?;
        let mut outputs = Vec::new();
        for x in x.chunks(batch * elements) {
            outputs.extend(session.predict(&parameters, x)?);
        }
        let classes = outputs.len() / samples;
        if self.what == What::Probabilities {
            outputs.chunks_mut(classes).for_each(softmax);
        }
        let labels: Vec<usize> = outputs.chunks(classes).map(largest).collect();
        if let Some(path) = &self.output {
            return match self.what {
                What::Labels => {
                    let bytes: Vec<u8> = labels.iter().flat_map(|&label| (label as i64).to_le_bytes()).collect();
                    self.write(path, Dtype::I64, vec![samples], &bytes)
                }
                What::Probabilities | What::Logits => {
                    self.write_numbers(path, samples, network.output_shape(), &outputs)
                }
                What::Inputs => self.write_numbers(path, samples, network.input_shape(), &x),
            };
        }
        let rows = |values: &[f32], length: usize| -> Vec<String> {
            let row = |row: &[f32]| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
            values.chunks(length).map(row).collect()
        };
        let lines: Vec<String> = match self.what {
            What::Labels => labels.iter().map(usize::to_string).collect(),
            What::Probabilities | What::Logits => rows(&outputs, classes),
            What::Inputs => rows(&x, elements),
        };
        print(&lines.join("\n"))
    }

    /// The inputs of a batch after they have relaxed to its targets.
    fn relaxed(
        &self,
        network: &Network,
        parameters: &Parameters,
        eta: f64,
        iterations: usize,
    ) -> Result<Vec<f32>, Failure> {
        let [path] = &self.input[..] else {
            return Err(Failure::usage(format!(
                "--free-input was given with {} files of --input; expected one file with x and y",
                self.input.len()
            )));
        };
        let batch = BatchFile::read(network, path)?;
        let free_input = FreeInput::default().with_precision(self.input_precision.unwrap_or(0.0));
        let method = Strict::new(eta, iterations).with_free_input(Some(free_input)).into();
        check_session(network, batch.samples, &method, &Options::default())?;
        let mut session = Session::new(network, batch.samples, method, Options::default())?;
        session.infer_with(parameters, &batch.x, &batch.y, batch.conditions(true)).map_err(Failure::run)?;
        Ok(session.get(Quantity::Belief, 0)?)
    }

    fn write_numbers(&self, path: &Path, samples: usize, shape: &[usize], values: &[f32]) -> Result<(), Failure> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.write(path, Dtype::F32, [&[samples], shape].concat(), &bytes)
    }

    fn write(&self, path: &Path, dtype: Dtype, shape: Vec<usize>, bytes: &[u8]) -> Result<(), Failure> {
        let tensor = TensorView::new(dtype, shape, bytes).map_err(Failure::run)?;
        let bytes = safetensors::serialize([(self.what.name(), tensor)], None).map_err(Failure::run)?;
        write_atomically(path, &bytes).map_err(Failure::run)
    }

    /// The inputs of all samples, one after the other.
    fn inputs(&self, network: &Network) -> Result<Vec<f32>, Failure> {
        let input = network.input_shape();
        let mut x = Vec::new();
        for path in &self.input {
            if !arrays::is_known(path) {
                x.extend(picture(path, input)?);
                continue;
            }
            let wrong = |message: String| Failure::usage(format!("{}: {message}", path.display()));
            let array = arrays::read(path, &["x"])?
                .remove("x")
                .ok_or_else(|| wrong("holds no x; expected the inputs under this name".into()))?;
            let elements = input.iter().product::<usize>();
            match array.shape.split_first() {
                Some((&samples, shape))
                    if samples > 0 && (shape == input || input == [shape.iter().product::<usize>()]) => {}
                _ => {
                    return Err(wrong(format!(
                        "x has shape {:?}; expected [samples, ...] with samples of shape {input:?} ({elements} numbers)",
                        array.shape
                    )));
                }
            }
            x.extend(array.values.numbers());
        }
        Ok(x)
    }
}

/// The pixels of a PNG or JPEG file as a network takes them, each channel behind the other.
fn picture(path: &Path, input: &[usize]) -> Result<Vec<f32>, Failure> {
    let (channels, [height, width]) = match *input {
        [channels @ (1 | 3), height, width] => (channels, [height, width]),
        [pixels] if pixels.isqrt().pow(2) == pixels => (1, [pixels.isqrt(); 2]),
        _ => {
            return Err(Failure::usage(format!(
                "{}: the model takes inputs of shape {input:?}, which are not images of 1 or 3 channels; use a .safetensors, \
                 .npz or .npy file",
                path.display()
            )));
        }
    };
    let pixels = Pixels::read(path).map_err(Failure::usage)?;
    let pixels = match pixels.size().map(|length| length as usize) == [width, height] {
        true => pixels,
        false => pixels
            .resized(width as u32, height as u32)
            .map_err(|e| Failure::run(format!("{}: cannot be resized: {e}", path.display())))?,
    };
    let scaled = |sample: &u8| f32::from(*sample) / 255.0;
    Ok(match channels {
        1 => pixels.rgb.chunks_exact(3).map(luminance).collect(),
        _ => (0..3).flat_map(|channel| pixels.rgb.iter().skip(channel).step_by(3).map(scaled)).collect(),
    })
}

/// Of red, green and blue, after ITU-R BT.709.
fn luminance(pixel: &[u8]) -> f32 {
    let weighted = pixel.iter().zip([2126, 7152, 722]).map(|(&sample, weight)| u32::from(sample) * weight);
    weighted.sum::<u32>() as f32 / (255.0 * 10_000.0)
}

/// Outputs to probabilities.
fn softmax(outputs: &mut [f32]) {
    let most = outputs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let odds: Vec<f64> = outputs.iter().map(|&output| f64::from(output - most).exp()).collect();
    let sum: f64 = odds.iter().sum();
    outputs.iter_mut().zip(odds).for_each(|(output, odds)| *output = (odds / sum) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_outputs_of_any_size() {
        let mut outputs = [1000.0, 1000.0 + std::f32::consts::LN_2, -1000.0];
        softmax(&mut outputs);
        assert!((outputs[0] - 1.0 / 3.0).abs() < 1e-4 && (outputs[1] - 2.0 / 3.0).abs() < 1e-4 && outputs[2] == 0.0);
    }
}
