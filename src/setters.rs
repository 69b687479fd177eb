//! How structs with options are written down where they cannot be built field by field.

/// Gives a struct a method for each of these fields that returns the struct with another value.
macro_rules! setters {
    ($type:ident { $($setter:ident($field:ident: $value:ty)),+ $(,)? }) => {
        impl $type {
            $(
                #[doc = concat!("The same with another [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                pub fn $setter(mut self, $field: $value) -> Self {
                    self.$field = $field;
                    self
                }
            )+
        }
    };
}
pub(crate) use setters;
