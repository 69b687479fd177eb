//! Everything that can go wrong, each told in one line: what was found, what was expected, what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// The result of this library's fallible functions. See [`Error`] for an example.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. Nothing was changed by a call that returns one, except for
/// [`Error::Diverged`], after which the session's state can be read, and
/// [`Error::Stopped`], after which only activations can.
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
    /// A method, an optimiser or a size that makes no sense.
    Argument(String),
    /// Data handed over in memory has the wrong size or content.
    Input(String),
    /// A file could not be read or written, or holds something else than expected.
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// A strict relaxation climbed instead of descending.
    Diverged(Divergence),
    /// The call was ended between two iterations by [`Options::stop`](crate::Options::stop).
    Stopped,
}

impl Error {
    /// An error about a file or directory, told in one line that can be read, whatever the message quotes from it.
    pub fn file(path: impl AsRef<Path>, message: impl fmt::Display) -> Self {
        const LONGEST: usize = 1000;
        let told = message.to_string();
        let mut message: String = told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
        if told.chars().nth(LONGEST).is_some() {
            message.push_str(" ...");
        }
        Error::File { path: path.as_ref().to_path_buf(), message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Network(message) | Error::Argument(message) | Error::Input(message) => f.write_str(message),
            Error::File { path, message } => write!(f, "{}: {message}", path.display()),
            Error::Diverged(divergence) => divergence.fmt(f),
            Error::Stopped => f.write_str("the relaxation was stopped between two iterations"),
        }
    }
}

impl std::error::Error for Error {}

/// Where a strict relaxation first left the descent: the energy of a sample exceeded its value at
/// the start by more than rounding, or was no longer finite. [`Session::infer`](crate::Session::infer) tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Index of the sample in its batch, from 0.
    pub sample: usize,
    /// The layer, from 1, whose term of the energy rose most since the start, or was the first that is
    /// not finite: half the squared error times the precision, or at the output the loss.
    pub layer: usize,
    /// The iteration whose energy, taken before its update, was too large, from 1.
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
