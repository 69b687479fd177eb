//! All errors. Each message is one line: what was found, what was expected, what to do.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of this library's fallible functions. See [`Error`] for an example.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. A call that fails changes nothing, with two exceptions: after [`Error::Diverged`] the state of the
/// session can be read, and after [`Error::Stopped`] only its activations.
///
/// ```
/// use predictive_coding::{Error, Linear, Loss, Network, Op};
///
/// let refused = Network::new(&[4], Loss::MSE, vec![vec![Op::Linear(Linear::new(0))]]);
/// assert!(matches!(&refused, Err(Error::Network(_))));
/// assert_eq!(refused.unwrap_err().to_string(), "operation 0.0: linear has out_features 0, expected at least 1");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The description of a network is not one that can be built.
    Network(String),
    /// An invalid method, option, optimiser setting or size.
    Argument(String),
    /// Data in memory has the wrong size or content.
    Input(String),
    /// A file cannot be read or written, or its content is not what was expected.
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        message: String,
        /// What the system or a parser said.
        cause: Option<Cause>,
    },
    /// The energy of a strict relaxation rose instead of falling.
    Diverged(Divergence),
    /// The call was stopped between two iterations by [`Options::stop`](crate::Options::stop).
    Stopped,
}

impl Error {
    /// An error about a file or directory. The message becomes one readable line, whatever it quotes from the file.
    pub fn file(path: impl AsRef<Path>, message: impl fmt::Display) -> Self {
        const LONGEST: usize = 1000;
        let told = message.to_string();
        let mut message: String = told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
        if told.chars().nth(LONGEST).is_some() {
            message.push_str(" ...");
        }
        Error::File { path: path.as_ref().to_path_buf(), message, cause: None }
    }

    /// The same error about a file, with what led to it as its [source](std::error::Error::source).
    #[cfg(feature = "files")]
    pub(crate) fn because(mut self, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        if let Error::File { cause, .. } = &mut self {
            *cause = Some(Cause(Arc::new(error)));
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Network(message) | Error::Argument(message) | Error::Input(message) => f.write_str(message),
            Error::File { path, message, .. } => write!(f, "{}: {message}", path.display()),
            Error::Diverged(divergence) => divergence.fmt(f),
            Error::Stopped => f.write_str("the relaxation was stopped between two iterations"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::File { cause: Some(Cause(cause)), .. } => Some(&**cause),
            _ => None,
        }
    }
}

/// What led to an [`Error::File`], which its [source](std::error::Error::source) gives.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn std::error::Error + Send + Sync>);

impl PartialEq for Cause {
    /// Whether it says the same.
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

/// Where a strict relaxation first diverged: the energy of a sample exceeded its initial value by more than rounding, or
/// was not finite. [`Session::infer`](crate::Session::infer) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Index of the sample in its batch, from 0.
    pub sample: usize,
    /// The layer, from 1, whose term of the energy rose most, or the first whose term is not finite. The term is half the
    /// squared error times the precision, or the loss for the output.
    pub layer: usize,
    /// The iteration, from 1, whose energy was too large. Energies are those before the update of an iteration.
    pub iteration: usize,
    /// Whether that energy was finite. If it was not at iteration 1, the forward pass overflowed.
    pub finite: bool,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the relaxation diverged at sample {}, layer {}, iteration {}: its energy {}; try a smaller eta, or a \
             smaller learning rate to keep the weights smaller",
            self.sample,
            self.layer,
            self.iteration,
            if self.finite { "rose above its initial value" } else { "is not finite" }
        )
    }
}
