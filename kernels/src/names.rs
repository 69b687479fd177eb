//! Names and what they stand for.

use std::fmt;

/// Why a name stands for nothing here. See [`Level`](crate::Level) for an example of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError(pub(crate) String);

impl NameError {
    /// The one of these that has a name.
    pub(crate) fn find<T: Copy + fmt::Display>(what: &str, name: &str, all: &[T]) -> Result<T, NameError> {
        let names: Vec<String> = all.iter().map(T::to_string).collect();
        let found = names.iter().position(|known| known == name).map(|at| all[at]);
        found.ok_or_else(|| NameError(format!("unknown {what} {name:?}, expected one of {}", names.join(", "))))
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NameError {}
