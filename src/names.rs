//! The names of enums without values: one table gives what is written, what is read and what is refused.

use crate::error::Error;

/// Implements `name`, `Display` and `FromStr` from a table of names.
macro_rules! names {
    ($type:ident, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The name in files, in reports and on the command line.
            pub fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name),+
                }
            }
        }

        impl std::fmt::Display for $type {
            /// The [name](Self::name).
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::error::Error;

            fn from_str(name: &str) -> $crate::error::Result<Self> {
                match name {
                    $($name => Ok($type::$variant),)+
                    _ => Err($crate::error::Error::unknown($what, name, &[$($name),+])),
                }
            }
        }
    };
}
pub(crate) use names;

impl Error {
    /// For a name that is none of those of its kind.
    pub(crate) fn unknown(what: &str, found: &str, expected: &[&str]) -> Self {
        let (last, others) = expected.split_last().expect("a kind has names");
        Error::Argument(format!("unknown {what} {found:?}, expected {} or {last}", others.join(", ")))
    }
}
