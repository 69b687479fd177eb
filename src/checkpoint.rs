//! Checkpoints: everything that a training run needs to continue with bit-identical results, in one
//! safetensors file: the tensors `parameter.<name>` and `optimizer.<moment>.<name>`, the history as
//! `history.steps` (i64 `[rows, 5]`: step, epoch, kind, shrunk, skipped) and `history.values` (f64 `[rows, 2]`: loss,
//! accuracy), the rest as text in the header, with a CRC-32 of it all. The generator needs no state: the batches of an epoch
//! follow from seed and epoch ([`epoch_rng`](crate::data::epoch_rng)).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::error::Result;
use crate::names::names;
use crate::network::Network;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::tensors::{self, TensorBytes, TensorFile};

const FORMAT: &str = "predictive-coding checkpoint 3";
/// The key of the checksum of everything else.
const CHECKSUM: &str = "checksum";
const SETTING: &str = "setting.";
const LEARNING_RATE: &str = "optimizer_lr";

/// Which samples a [`Record`] is about. See [`save_checkpoint`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordKind {
    /// The batch of a training step, before the step.
    Train,
    /// The test set.
    Test,
}

names!(RecordKind, "kind of record", { Train => "train", Test => "test" });

/// One measurement of a training run. See [`save_checkpoint`] for an example.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Optimiser steps taken, this one included.
    pub step: u64,
    /// The epoch, from 1.
    pub epoch: u64,
    /// Which samples were measured.
    pub kind: RecordKind,
    /// The loss, by the network's reduction.
    pub loss: f64,
    /// Share of samples whose largest output is that of their label, in 0..=1.
    pub accuracy: f64,
    /// Number of samples that diverged and were relaxed again with a smaller step size.
    pub shrunk: u64,
    /// Number of samples that diverged and were left out of the gradients.
    pub skipped: u64,
}

/// How far a training run has come. See [`save_checkpoint`] for an example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Optimiser steps taken.
    pub step: u64,
    /// The epoch of the last step, from 1; 0 before the first.
    pub epoch: u64,
    /// All measurements, in their order.
    pub history: Vec<Record>,
}

/// The settings of a run by name: seed, method, batch size and so on. A checkpoint can only be continued with the same
/// settings. See [`save_checkpoint`] for an example.
pub type Settings = BTreeMap<String, String>;

/// Writes a checkpoint, atomically replacing an older one.
///
/// ```
/// use predictive_coding::{
///     Adam, Linear, Loss, Network, Op, Progress, Record, RecordKind, Settings, load_checkpoint, save_checkpoint,
/// };
///
/// let network = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(3))]])?;
/// let parameters = network.initialize(1);
/// let settings = Settings::from([("seed".into(), "1".into())]);
/// let kind = RecordKind::Train;
/// let record = Record { step: 1, epoch: 1, kind, loss: 0.7, accuracy: 0.5, shrunk: 0, skipped: 0 };
/// let progress = Progress { step: 1, epoch: 1, history: vec![record] };
/// let path = std::env::temp_dir().join(format!("checkpoint-{}.safetensors", std::process::id()));
/// save_checkpoint(&path, &network, &settings, &parameters, &Adam::new(&parameters, 1e-3), &progress)?;
///
/// let mut adam = Adam::new(&parameters, 1e-3);
/// let loaded = load_checkpoint(&path, &network, &settings, &mut adam)?;
/// assert_eq!(loaded, (parameters, progress));
/// # std::fs::remove_file(path).unwrap();
/// # Ok::<(), predictive_coding::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`](crate::Error::File) if it cannot be written; an older one stays.
pub fn save_checkpoint(
    path: impl AsRef<Path>,
    network: &Network,
    settings: &Settings,
    parameters: &Parameters,
    optimizer: &dyn Optimizer,
    progress: &Progress,
) -> Result<()> {
    let mut header: HashMap<String, String> = identity(network, settings, optimizer)
        .into_iter()
        .map(|(key, value)| (SETTING.to_string() + &key, value))
        .collect();
    header.insert("format".into(), FORMAT.into());
    header.insert(LEARNING_RATE.into(), optimizer.lr().to_string());
    for (key, value) in [("step", progress.step), ("epoch", progress.epoch), ("optimizer_steps", optimizer.steps())] {
        header.insert(key.into(), value.to_string());
    }
    let mut content = parameters.to_tensors("parameter.");
    for (name, moment) in optimizer.moments() {
        content.extend(moment.to_tensors(&format!("optimizer.{name}.")));
    }
    let rows = progress.history.len();
    let steps: Vec<i64> = progress
        .history
        .iter()
        .flat_map(|row| {
            let kind = i64::from(row.kind == RecordKind::Test);
            [row.step as i64, row.epoch as i64, kind, row.shrunk as i64, row.skipped as i64]
        })
        .collect();
    let values: Vec<f64> = progress.history.iter().flat_map(|row| [row.loss, row.accuracy]).collect();
    content.push(("history.steps".into(), TensorBytes::i64(&[rows, 5], &steps)));
    content.push(("history.values".into(), TensorBytes::f64(&[rows, 2], &values)));
    let metadata = header.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let by_name: HashMap<&str, &TensorBytes> = content.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let names = content.iter().map(|(name, _)| name.clone()).collect();
    let checksum = tensors::checksum(metadata, names, |name, hasher| {
        tensors::hash(hasher, by_name[name].bytes());
        Ok(())
    })?;
    header.insert(CHECKSUM.into(), checksum);
    tensors::write(path.as_ref(), content, Some(header))
}

/// Reads a checkpoint (see [`save_checkpoint`] for an example). `optimizer` must be new, with the settings of the run. It
/// takes over the saved state.
///
/// # Errors
/// [`Error::File`](crate::Error::File) if the file is not a checkpoint, or one of another
/// network, optimiser or settings, which it names (nothing was changed).
pub fn load_checkpoint(
    path: impl AsRef<Path>,
    network: &Network,
    settings: &Settings,
    optimizer: &mut dyn Optimizer,
) -> Result<(Parameters, Progress)> {
    let file = open(path.as_ref())?;
    let changed = changes(&file, &identity(network, settings, optimizer));
    if let Some((_, refusal)) = changed.first() {
        return Err(file.wrong(refusal));
    }
    let lr = number(&file, LEARNING_RATE)?;
    let (parameters, progress) = read_state(&file, network, optimizer)?;
    optimizer.set_lr(lr).map_err(|e| file.wrong(e))?;
    Ok((parameters, progress))
}

/// Like [`load_checkpoint`], but continues with the given settings and the learning rate of `optimizer`. Also returns a line
/// for each setting that differs from the run that wrote the checkpoint.
///
/// # Errors
/// As [`load_checkpoint`], but of other settings only if they are those of another network or of an optimiser
/// with other averages.
pub fn load_checkpoint_overriding(
    path: impl AsRef<Path>,
    network: &Network,
    settings: &Settings,
    optimizer: &mut dyn Optimizer,
) -> Result<(Parameters, Progress, Vec<String>)> {
    let file = open(path.as_ref())?;
    let changed = changes(&file, &identity(network, settings, optimizer));
    if let Some((_, refusal)) = changed.iter().find(|(key, _)| key == "model") {
        return Err(file.wrong(refusal));
    }
    let told = changed.iter().map(|(key, _)| {
        let [before, now] = [file.metadata(&format!("{SETTING}{key}")), settings.get(key).map(String::as_str)];
        let now = now.map_or_else(|| optimizer.description(), str::to_string);
        format!("{key}: {}, now {now}", before.unwrap_or("none"))
    });
    let told: Vec<String> = told.collect();
    let (parameters, progress) = read_state(&file, network, optimizer)?;
    Ok((parameters, progress, told))
}

/// The file of a checkpoint, whose checksum is right.
fn open(path: &Path) -> Result<TensorFile> {
    let file = TensorFile::read(path)?;
    match file.metadata("format") {
        Some(FORMAT) => (),
        Some(other) => return Err(file.wrong(format!("is a {other:?}, expected a {FORMAT:?}"))),
        None => {
            return Err(file.wrong("is not a checkpoint; expected a file that a training run wrote as its checkpoint"));
        }
    }
    let (found, expected) = (file.metadata(CHECKSUM), file.checksum(CHECKSUM)?);
    // No fuzzer comes upon a checksum, and what lies behind it must hold as well.
    if found != Some(&expected) && !cfg!(fuzzing) {
        return Err(file.wrong(format!(
            "is damaged: its checksum is {}, expected {expected}; use another checkpoint",
            found.unwrap_or("missing")
        )));
    }
    Ok(file)
}

/// Parameters, progress, and the state that `optimizer` takes over.
fn read_state(file: &TensorFile, network: &Network, optimizer: &mut dyn Optimizer) -> Result<(Parameters, Progress)> {
    let parameters = read_parameters(file, network, "parameter.", true)?;
    let names: Vec<&str> = optimizer.moments().iter().map(|(name, _)| *name).collect();
    let moments: Vec<Parameters> = names
        .iter()
        // Squares of large gradients are infinite.
        .map(|name| read_parameters(file, network, &format!("optimizer.{name}."), false))
        .collect::<Result<_>>()?;
    let progress =
        Progress { step: number(file, "step")?, epoch: number(file, "epoch")?, history: read_history(file)? };
    let moments: Vec<(&str, &Parameters)> = names.into_iter().zip(&moments).collect();
    optimizer.restore(number(file, "optimizer_steps")?, &moments).map_err(|e| file.wrong(e))?;
    Ok((parameters, progress))
}

/// The settings, and those that follow from network and optimiser.
fn identity(network: &Network, settings: &Settings, optimizer: &dyn Optimizer) -> Settings {
    let mut identity = settings.clone();
    identity.insert("model".into(), network.to_toml());
    identity.insert("optimizer".into(), optimizer.description());
    identity
}

/// What is another in the file than expected, each with a refusal.
fn changes(file: &TensorFile, expected: &Settings) -> Vec<(String, String)> {
    let change = |(key, value): (&String, &String)| {
        let refusal = match file.metadata(&format!("{SETTING}{key}")) {
            Some(found) if found == value => return None,
            Some(found) if found.contains('\n') || value.contains('\n') => {
                format!("is a checkpoint of a run with another {key}; use the same, or another checkpoint")
            }
            Some(found) => format!(
                "is a checkpoint of a run with {key} {found}, this one has {value}; give the same one, or name another \
                 checkpoint"
            ),
            None => format!("is a checkpoint of a run without {key}; use another checkpoint"),
        };
        Some((key.clone(), refusal))
    };
    expected.iter().filter_map(change).collect()
}

fn read_parameters(file: &TensorFile, network: &Network, prefix: &str, finite: bool) -> Result<Parameters> {
    let specs = network.parameters();
    let names: Vec<String> = specs.iter().map(|spec| format!("{prefix}{}", spec.name)).collect();
    file.parameters(specs, &names, if finite { TensorFile::finite_f32 } else { TensorFile::f32 })
}

fn read_history(file: &TensorFile) -> Result<Vec<Record>> {
    let rows = file.shape("history.steps")?.first().copied().unwrap_or_default();
    let steps = file.i64("history.steps", &[rows, 5])?;
    let values = file.f64("history.values", &[rows, 2])?;
    let row = |(step, value): (&[i64; 5], &[f64; 2])| Record {
        step: step[0] as u64,
        epoch: step[1] as u64,
        kind: if step[2] == 0 { RecordKind::Train } else { RecordKind::Test },
        loss: value[0],
        accuracy: value[1],
        shrunk: step[3] as u64,
        skipped: step[4] as u64,
    };
    Ok(steps.as_chunks().0.iter().zip(values.as_chunks().0).map(row).collect())
}

fn number<T: std::str::FromStr>(file: &TensorFile, key: &str) -> Result<T> {
    file.metadata(key)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| file.wrong(format!("has no number {key} in its header; the file is damaged")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Adam, Linear, Loss, Op, Sgd};

    fn network(outputs: usize) -> Network {
        Network::new(&[3], Loss::MSE, vec![vec![Op::Linear(Linear::new(outputs))]]).unwrap()
    }

    fn settings(batch: u32) -> Settings {
        [("batch".to_string(), batch.to_string()), ("seed".to_string(), u64::MAX.to_string())].into()
    }

    fn progress() -> Progress {
        let row =
            |step, kind, loss| Record { step, epoch: 2, kind, loss, accuracy: 1.0 / 3.0, shrunk: 3, skipped: step };
        let history =
            vec![row(6, RecordKind::Train, 0.1), row(7, RecordKind::Train, 1e-300), row(7, RecordKind::Test, 7.0)];
        Progress { step: 7, epoch: 2, history }
    }

    #[test]
    fn a_run_goes_on_with_the_same_bits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let network = network(2);
        let mut parameters = network.initialize(1);
        let gradients = network.initialize(2);
        let mut adam = Adam::new(&parameters, 0.1);
        adam.step(&mut parameters, &gradients);
        save_checkpoint(&path, &network, &settings(3), &parameters, &adam, &progress()).unwrap();

        let mut fresh = Adam::new(&parameters, 0.1);
        let (mut again, read) = load_checkpoint(&path, &network, &settings(3), &mut fresh).unwrap();
        assert_eq!(read, progress());
        assert_eq!(again, parameters);
        adam.step(&mut parameters, &gradients);
        fresh.step(&mut again, &gradients);
        assert_eq!(again, parameters);
        assert_eq!(fresh.steps(), 2);
    }

    #[test]
    fn a_checkpoint_of_another_run_is_refused_and_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let parameters = network(2).initialize(1);
        let adam = Adam::new(&parameters, 0.1);
        save_checkpoint(&path, &network(2), &settings(3), &parameters, &adam, &progress()).unwrap();
        let load = |outputs, batch, optimizer: &mut dyn Optimizer| {
            let error = load_checkpoint(&path, &network(outputs), &settings(batch), optimizer).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
            error
        };
        let error = load(2, 4, &mut adam.clone());
        assert!(error.contains("a run with batch 3, this one has 4"), "{error}");
        let error = load(1, 3, &mut adam.clone());
        assert!(error.contains("another model"), "{error}");
        let error = load(2, 3, &mut Adam::new(&parameters, 0.2));
        assert!(error.contains("lr=0.1") && error.contains("lr=0.2"), "{error}");
        let error = load(2, 3, &mut Sgd::new(&parameters, 0.1));
        assert!(error.contains("optimizer adam"), "{error}");
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c");
        let parameters = network(2).initialize(1);
        let adam = Adam::new(&parameters, 0.1);
        save_checkpoint(&path, &network(2), &settings(3), &parameters, &adam, &progress()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let load = || load_checkpoint(&path, &network(2), &settings(3), &mut adam.clone());
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bytes).unwrap();
            // A space of the header may become another separator, or the padding behind it.
            if let Ok((found, read)) = load() {
                assert_eq!((found, read), (parameters.clone(), progress()), "byte {at}");
                assert!(whole[at].is_ascii_whitespace(), "byte {at}, {:?}", whole[at] as char);
            }
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(load().is_err(), "cut off at {at}");
        }
        std::fs::write(&path, &whole).unwrap();
        load().unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w");
        let parameters = network(2).initialize(1);
        parameters.save(&path).unwrap();
        let mut adam = Adam::new(&parameters, 0.1);
        let error = load_checkpoint(&path, &network(2), &settings(3), &mut adam).unwrap_err().to_string();
        assert!(error.contains("is not a checkpoint"), "{error}");
    }
}
