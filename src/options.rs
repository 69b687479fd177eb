//! What a session does otherwise than usual, whatever its method.

use std::sync::atomic::{AtomicBool, Ordering};

use predictive_coding_kernels::{Algorithm, Level};

use crate::names::names;
use crate::setters::setters;

/// What a session does otherwise than usual, whatever its method.
///
/// ```
/// use predictive_coding::{Algorithm, LayoutChoice, Level, Options};
///
/// let options = Options::default().with_level(Some(Level::PORTABLE)).with_layout(LayoutChoice::Images);
/// assert_eq!(options.convolution, Algorithm::Auto);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The SIMD level; the machine's own, or the one that the environment names, if none.
    pub level: Option<Level>,
    /// What lies across the lanes of vectors.
    pub layout: LayoutChoice,
    /// How convolutions are computed.
    pub convolution: Algorithm,
    /// Ends a call between two iterations, with [`Error::Stopped`](crate::Error::Stopped).
    pub stop: Option<StopFlag>,
}

setters!(Options {
    with_level(level: Option<Level>),
    with_layout(layout: LayoutChoice),
    with_convolution(convolution: Algorithm),
    with_stop(stop: Option<StopFlag>),
});

impl Options {
    /// Whether a call is to end.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.is_some_and(StopFlag::is_set)
    }
}

/// A flag that whoever holds it sets to end a relaxation.
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

/// What lies across the lanes of a session's vectors. Results differ between layouts by rounding alone. See
/// [`Options`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutChoice {
    /// The one that takes less time for the network and the batch, by a count of operations.
    #[default]
    Auto,
    /// A sample in every lane: for few channels and full batches.
    Images,
    /// The channels of one sample: for many channels, and for batches smaller than a vector.
    Channels,
}

names!(LayoutChoice, "layout", { Auto => "auto", Images => "images", Channels => "channels" });
