//! Runs the program and makes the files that it reads.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use predictive_coding::{Network, write_tensors};

/// A network with a convolution, three layers and two hidden beliefs.
pub const MODEL: &str = r#"
input = [1, 4, 5]
loss = "mse"
[[layer]]
ops = [
  { type = "conv2d", out_channels = 2, kernel_size = 3 },
  { type = "tanh" },
]
[[layer]]
ops = [{ type = "flatten" }, { type = "linear", out_features = 6 }, { type = "tanh" }]
[[layer]]
ops = [{ type = "linear", out_features = 3 }]
"#;

/// A directory of files for one test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text.
    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.name(name)
    }

    /// `model.toml`, `weights.safetensors` and `batch.safetensors` with `samples` samples of [`MODEL`].
    pub fn with_model(samples: usize) -> Self {
        let folder = Folder::new();
        folder.write("model.toml", MODEL);
        let network = Network::from_toml(MODEL).unwrap();
        network.initialize(5).save(folder.path("weights.safetensors")).unwrap();
        let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>();
        let x = ("x".to_string(), vec![samples, 1, 4, 5], wave(samples * 20, 0.7));
        let y = ("y".to_string(), vec![samples, 3], wave(samples * 3, 1.3));
        write_tensors(folder.path("batch.safetensors"), &[x, y]).unwrap();
        folder
    }

    /// `infer` on those files.
    pub fn infer(&self, method: &str, more: &[&str]) -> Finished {
        let [model, weights, batch] = ["model.toml", "weights.safetensors", "batch.safetensors"].map(|f| self.name(f));
        let files = ["infer", "--model", &model, "--weights", &weights, "--batch", &batch, "--method", method];
        run(&[&files, more].concat())
    }
}

/// What the program left.
#[derive(Debug)]
pub struct Finished {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Finished {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Finished {
    /// Panics unless the run succeeded.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.status, Some(0), "{self:?}");
        self
    }

    /// Panics unless the run ended with `status` and one line of error that has all of `parts`, as
    /// the last line of standard error.
    #[track_caller]
    pub fn failed(self, status: i32, parts: &[&str]) -> Self {
        assert_eq!(self.status, Some(status), "{self:?}");
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "{self:?}");
        assert_eq!(self.stderr.lines().last(), Some(errors[0]), "{self:?}");
        for part in parts {
            assert!(errors[0].contains(part), "{:?} lacks {part:?}", errors[0]);
        }
        self
    }

    /// Panics unless the input was refused: status 2, nothing but one line of error.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) {
        let finished = self.failed(2, parts);
        assert_eq!((finished.stderr.lines().count(), &finished.stdout[..]), (1, ""), "{finished:?}");
    }
}

/// The program with arguments.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_predictive-coding"));
    command.args(arguments);
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Finished {
    program(arguments).output().unwrap().into()
}

/// The tensors of a safetensors file: names with shapes and values, sorted.
pub fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), safetensors::Dtype::F32);
            let values = tensor.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
            (name, tensor.shape().to_vec(), values)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// Rows of a CSV file by column name.
pub fn csv(path: &Path) -> Vec<std::collections::HashMap<String, String>> {
    csv::Reader::from_path(path).unwrap().deserialize().map(Result::unwrap).collect()
}

/// An idx file: magic number, sizes, bytes.
pub fn idx(magic: u32, sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    [&[magic], sizes].concat().iter().flat_map(|word| word.to_be_bytes()).chain(bytes.iter().copied()).collect()
}

/// A PNG file; `samples` are those of the pixel in a column and a row.
pub fn png(width: usize, height: usize, colour: png::ColorType, samples: impl Fn(usize, usize) -> Vec<u8>) -> Vec<u8> {
    let rows = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let samples: Vec<u8> = rows.flat_map(|(x, y)| samples(x, y)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.write_header().unwrap().write_image_data(&samples).unwrap();
    bytes
}
