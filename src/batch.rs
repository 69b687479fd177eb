//! Batches and initial beliefs in safetensors files.

use std::collections::BTreeSet;
use std::path::Path;

use safetensors::Dtype;

use crate::error::Result;
use crate::group::{Conditions, Start};
use crate::loss::Targets;
use crate::network::{Network, elements};
use crate::tensors::TensorFile;

/// A batch of inputs with their targets (see [`Session::infer`](crate::Session::infer)), from a file that holds `x`, f32 `[batch, input shape]`,
/// and `y`, either i64 `[batch]` or f32 `[batch, outputs]`. It may also hold the [masks](Conditions) `input_mask`, of the
/// shape of `x`, and `mask`, `[batch, output shape]`, f32.
///
/// ```
/// use predictive_coding::{BatchFile, Linear, Loss, Network, Op, write_tensors};
///
/// let network = Network::new(&[2], Loss::MSE, vec![vec![Op::Linear(Linear::new(1))]])?;
/// let path = std::env::temp_dir().join(format!("batch-{}.safetensors", std::process::id()));
/// write_tensors(&path, &[("x".into(), vec![1, 2], vec![0.5, -0.5]), ("y".into(), vec![1, 1], vec![1.0])])?;
/// assert_eq!(BatchFile::read(&network, &path)?.samples, 1);
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), predictive_coding::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BatchFile {
    /// `[samples, input shape]`.
    pub x: Vec<f32>,
    /// The targets.
    pub y: BatchTargets,
    /// Number of samples, at least 1.
    pub samples: usize,
    /// 1 at the elements of the input that are clamped, 0 at those that are free, if the file says it.
    pub input_mask: Option<Vec<f32>>,
    /// 1 at the targets that count, 0 at those that are free, if the file says it.
    pub mask: Option<Vec<f32>>,
}

/// Targets that own their values. See [`BatchFile`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum BatchTargets {
    /// A class per sample.
    Labels(Vec<i64>),
    /// One value per output, `[samples, outputs]`.
    Values(Vec<f32>),
}

impl<'a> From<&'a BatchTargets> for Targets<'a> {
    fn from(targets: &'a BatchTargets) -> Self {
        match targets {
            BatchTargets::Labels(labels) => Targets::Labels(labels),
            BatchTargets::Values(values) => Targets::Values(values),
        }
    }
}

impl BatchFile {
    /// Reads a batch for `network`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a tensor is missing, has another shape or type
    /// than the network takes, a number that is not finite, or a label that is out of range.
    pub fn read(network: &Network, path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::read(path.as_ref())?;
        let input = network.input_shape();
        let samples = match file.shape("x")? {
            [samples, sample @ ..] if sample == input && *samples > 0 => *samples,
            other => {
                let expected = input.iter().map(|size| format!(", {size}")).collect::<String>();
                return Err(file.wrong(format!(
                    "tensor x has shape {other:?}, expected [batch{expected}] with a batch of at least 1"
                )));
            }
        };
        let x = file.finite_f32("x", &with_batch(samples, input))?;
        let outputs = elements(network.output_shape());
        let y = match file.dtype("y")? {
            Dtype::F32 => {
                let shape = match file.shape("y")? {
                    given if given == with_batch(samples, network.output_shape()) => given.to_vec(),
                    _ => vec![samples, outputs],
                };
                BatchTargets::Values(file.finite_f32("y", &shape)?)
            }
            Dtype::I64 => BatchTargets::Labels(file.i64("y", &[samples])?),
            other => {
                return Err(file.wrong(format!(
                    "tensor y is of type {other}, expected I64 class labels or F32 values; convert it"
                )));
            }
        };
        Targets::from(&y)
            .validate(network.loss(), samples, outputs)
            .map_err(|e| file.wrong(format!("tensor y: {e}")))?;
        let input_mask = file.has("input_mask").then(|| file.finite_f32("input_mask", &with_batch(samples, input)));
        let mask = file.has("mask").then(|| file.finite_f32("mask", &with_batch(samples, network.output_shape())));
        Ok(BatchFile { x, y, samples, input_mask: input_mask.transpose()?, mask: mask.transpose()? })
    }

    /// The masks, that of the input if it is free.
    pub fn conditions(&self, free_input: bool) -> Conditions<'_> {
        let conditions = Conditions::default();
        let conditions = self.mask.as_ref().map_or(conditions, |mask| conditions.with_mask(mask));
        match &self.input_mask {
            Some(mask) if free_input => conditions.with_input_mask(mask),
            _ => conditions,
        }
    }
}

/// The initial beliefs of a strict relaxation, from a file with `deviation.l` or `belief.l`, f32
/// `[batch, shape of layer l]`, for any of the layers l = 1..L-1. The others start at v-hat. If a file has both for a layer,
/// as the output of an inference does, the deviation is used. Other tensors of such a file are ignored. See
/// [`Session::infer_from`](crate::Session::infer_from).
#[derive(Clone, Debug, PartialEq)]
pub struct StartFile {
    /// At index l - 1 for layer l.
    starts: Vec<LayerStart>,
}

#[derive(Clone, Debug, PartialEq)]
enum LayerStart {
    Activation,
    Deviation(Vec<f32>),
    Belief(Vec<f32>),
}

impl StartFile {
    /// Reads the starts of `samples` samples.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if a tensor has another name, shape or type, a
    /// number that is not finite.
    pub fn read(network: &Network, samples: usize, path: impl AsRef<Path>) -> Result<Self> {
        let file = TensorFile::read(path.as_ref())?;
        let layers = network.layers();
        let hidden = &layers[..layers.len() - 1];
        let mut names: BTreeSet<String> = file.names().into_iter().collect();
        let mut starts = Vec::with_capacity(hidden.len());
        for (l, layer) in (1..).zip(hidden) {
            let [deviation, belief] = [format!("deviation.{l}"), format!("belief.{l}")];
            let shape = with_batch(samples, layer.output_shape());
            starts.push(match (file.has(&deviation), file.has(&belief)) {
                (false, false) => LayerStart::Activation,
                (true, _) => LayerStart::Deviation(file.finite_f32(&deviation, &shape)?),
                (false, true) => LayerStart::Belief(file.finite_f32(&belief, &shape)?),
            });
            names.remove(&deviation);
            names.remove(&belief);
        }
        // The rest of what an inference writes.
        let others = ["activation.", "error.", "grad.", "loss"];
        match names.iter().find(|name| !others.iter().any(|other| name.starts_with(other))) {
            None => Ok(StartFile { starts }),
            Some(name) => Err(file.wrong(format!(
                "tensor {name} is not an initial belief; expected deviation.l or belief.l with l in 1..={}",
                hidden.len()
            ))),
        }
    }

    /// The starts, layer 1 first.
    pub fn starts(&self) -> Vec<Start<'_>> {
        let starts = self.starts.iter().map(|start| match start {
            LayerStart::Activation => Start::Activation,
            LayerStart::Deviation(values) => Start::Deviation(values),
            LayerStart::Belief(values) => Start::Belief(values),
        });
        starts.collect()
    }
}

fn with_batch(samples: usize, sample: &[usize]) -> Vec<usize> {
    [&[samples], sample].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::{self, TensorBytes};
    use crate::{Linear, Loss, Op};

    fn network(loss: Loss) -> Network {
        let linear = |outputs| Op::Linear(Linear::new(outputs));
        Network::new(&[1, 3], loss, vec![vec![Op::Flatten, linear(4)], vec![linear(2)]]).unwrap()
    }

    fn f32s(shape: &[usize], values: &[f32]) -> TensorBytes {
        TensorBytes::f32(shape, values)
    }

    fn batch(loss: Loss, tensors: Vec<(&str, TensorBytes)>) -> std::result::Result<BatchFile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b.safetensors");
        tensors::write(&path, tensors.into_iter().map(|(name, t)| (name.to_string(), t)).collect(), None).unwrap();
        BatchFile::read(&network(loss), &path).map_err(|e| e.to_string())
    }

    fn start(tensors: Vec<(&str, TensorBytes)>) -> std::result::Result<StartFile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("i.safetensors");
        tensors::write(&path, tensors.into_iter().map(|(name, t)| (name.to_string(), t)).collect(), None).unwrap();
        StartFile::read(&network(Loss::MSE), 2, &path).map_err(|e| e.to_string())
    }

    #[test]
    fn labels_and_values_are_read() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let labels = TensorBytes::i64(&[2], &[1, 0]);
        let read = batch(Loss::CROSS_ENTROPY, vec![("x", f32s(&[2, 1, 3], &x)), ("y", labels)]).unwrap();
        assert_eq!(
            read,
            BatchFile { x: x.to_vec(), y: BatchTargets::Labels(vec![1, 0]), samples: 2, input_mask: None, mask: None }
        );
        let values = f32s(&[2, 2], &x[..4]);
        let read = batch(Loss::MSE, vec![("x", f32s(&[2, 1, 3], &x)), ("y", values)]).unwrap();
        assert_eq!(read.y, BatchTargets::Values(x[..4].to_vec()));
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let x = || f32s(&[1, 1, 3], &[0.0; 3]);
        let label = |y| TensorBytes::i64(&[1], &[y]);
        for (loss, tensors, part) in [
            (Loss::MSE, vec![("x", x())], "has no tensor y"),
            (Loss::MSE, vec![("y", label(0))], "has no tensor x"),
            (Loss::MSE, vec![("x", f32s(&[1, 3], &[0.0; 3])), ("y", label(0))], "expected [batch, 1, 3]"),
            (Loss::MSE, vec![("x", f32s(&[0, 1, 3], &[])), ("y", label(0))], "at least 1"),
            (
                Loss::MSE,
                vec![("x", f32s(&[1, 1, 3], &[0.0, f32::NAN, 0.0])), ("y", label(0))],
                "x holds NaN at [0, 0, 1]",
            ),
            (Loss::MSE, vec![("x", x()), ("y", label(2))], "label 2 of sample 0 is out of range"),
            (Loss::MSE, vec![("x", x()), ("y", label(-1))], "label -1"),
            (Loss::MSE, vec![("x", x()), ("y", TensorBytes::i64(&[2], &[0, 0]))], "y has shape [2], expected [1]"),
            (Loss::MSE, vec![("x", x()), ("y", f32s(&[1, 3], &[0.0; 3]))], "y has shape [1, 3], expected [1, 2]"),
            (Loss::MSE, vec![("x", x()), ("y", TensorBytes::f64(&[1, 2], &[0.0; 2]))], "y is of type F64"),
            (Loss::CROSS_ENTROPY, vec![("x", x()), ("y", f32s(&[1, 2], &[0.0; 2]))], "cross_entropy takes one class"),
        ] {
            let error = batch(loss, tensors).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error:?} lacks {part:?}");
        }
    }

    #[test]
    fn starts_are_read_by_layer() {
        let values = [0.5; 8];
        let read = start(vec![("belief.1", f32s(&[2, 4], &values))]).unwrap();
        assert!(matches!(read.starts()[..], [Start::Belief(given)] if given == values));
        let read = start(vec![("deviation.1", f32s(&[2, 4], &values))]).unwrap();
        assert!(matches!(read.starts()[..], [Start::Deviation(given)] if given == values));
        assert!(matches!(start(vec![]).unwrap().starts()[..], [Start::Activation]));
        let inferred = ["activation.1", "belief.1", "error.1", "grad.0.0.bias", "loss"]
            .map(|name| (name, f32s(&[2, 4], &[1.0; 8])));
        let inferred = inferred.into_iter().chain([("deviation.1", f32s(&[2, 4], &values))]).collect();
        assert!(matches!(start(inferred).unwrap().starts()[..], [Start::Deviation(given)] if given == values));
    }

    #[test]
    fn starts_that_do_not_fit_are_refused() {
        for (tensors, part) in [
            (vec![("deviation.2", f32s(&[2, 2], &[0.0; 4]))], "deviation.2 is not an initial belief"),
            (vec![("v.1", f32s(&[2, 4], &[0.0; 8]))], "v.1 is not an initial belief"),
            (vec![("belief.1", f32s(&[1, 4], &[0.0; 4]))], "shape [1, 4], expected [2, 4]"),
            (vec![("belief.1", f32s(&[2, 4], &[f32::INFINITY; 8]))], "belief.1 holds inf at [0, 0]"),
        ] {
            let error = start(tensors).unwrap_err();
            assert!(error.contains(part), "{error:?} lacks {part:?}");
        }
    }
}
