//! Options of a session, for any method.

use std::sync::atomic::{AtomicBool, Ordering};

use predictive_coding_kernels::{Algorithm, Level};

use crate::names::names;
use crate::setters::setters;

/// Options of a session, for any method. The defaults are right for most uses.
///
/// ```
/// use predictive_coding::{Algorithm, LayoutChoice, Level, Options};
///
/// let options = Options::default().with_level(Some(Level::PORTABLE)).with_layout(LayoutChoice::Images);
/// assert_eq!(options.convolution, Algorithm::Auto);
/// ```
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The SIMD level; by default the one named by the environment variable `PREDICTIVE_CODING_LEVEL`, or the widest of
    /// the CPU.
    #[cfg_attr(feature = "serde", serde(with = "crate::names::optional"))]
    pub level: Option<Level>,
    /// What fills the lanes of a vector.
    pub layout: LayoutChoice,
    /// The algorithm of convolutions.
    #[cfg_attr(feature = "serde", serde(with = "crate::names::by_name"))]
    pub convolution: Algorithm,
    /// The seed of the masks of [dropout](crate::Op::Dropout), each of which follows from the seed, the step, the operation,
    /// the sample's place in the batch and the element alone. Every call of `infer` and `learn` is a step. By default there
    /// are no masks, as in `predict` and `forward`.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub dropout_seed: Option<u64>,
    /// The fewest groups that a batch is cut into, as far as it has tiles, where [ranks](crate::Session::shared) would else be
    /// left without one. Each group has partial gradients of its own, so that more of them take more memory; the last bits
    /// of gradients depend on their number.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub groups: Option<usize>,
    /// A flag that stops a call between two iterations, with [`Error::Stopped`](crate::Error::Stopped).
    #[cfg_attr(feature = "serde", serde(skip))]
    pub stop: Option<StopFlag>,
}

setters!(Options {
    with_level(level: Option<Level>),
    with_layout(layout: LayoutChoice),
    with_convolution(convolution: Algorithm),
    with_dropout_seed(dropout_seed: Option<u64>),
    with_groups(groups: Option<usize>),
    with_stop(stop: Option<StopFlag>),
});

impl Options {
    /// Whether a call is to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_some_and(StopFlag::is_set)
    }
}

/// A flag that stops a relaxation when it is set.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// use predictive_coding::{Options, StopFlag};
///
/// static STOP: AtomicBool = AtomicBool::new(false);
/// let options = Options::default().with_stop(Some(StopFlag(&STOP)));
/// // In a signal handler or another thread:
/// STOP.store(true, Ordering::Relaxed);
/// assert!(options.stop.unwrap().is_set());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct StopFlag(pub &'static AtomicBool);

impl StopFlag {
    /// Whether it was set.
    pub fn is_set(self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl PartialEq for StopFlag {
    /// Whether it is the same flag.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

/// What fills the lanes of a session's vectors. Results differ between layouts only by rounding. See [`Options`] for an
/// example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutChoice {
    /// The faster one for the network and the batch, by a count of operations.
    #[default]
    Auto,
    /// One sample per lane; good for few channels and full batches.
    Images,
    /// One channel of a sample per lane; good for many channels, and for batches smaller than a vector.
    Channels,
}

names!(LayoutChoice, "layout", { Auto => "auto", Images => "images", Channels => "channels" });
