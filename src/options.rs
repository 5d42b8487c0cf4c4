//! Methods that set options one after the other, each under the name of its field.

/// Gives options a method for each field. Those after `or none` take a value, or an `Option`.
macro_rules! setters {
    ($options:ident { $($field:ident: $value:ty),* $(; or none $($maybe:ident: $inner:ty),*)? }) => {
        impl $options {
            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, $field: $value) -> Self {
                    self.$field = $field;
                    self
                }
            )*
            $($(
                #[doc = concat!("Sets [`", stringify!($maybe), "`](field@Self::", stringify!($maybe), "), or with `None` none.")]
                #[must_use]
                pub fn $maybe(mut self, $maybe: impl Into<Option<$inner>>) -> Self {
                    self.$maybe = $maybe.into();
                    self
                }
            )*)?
        }
    };
}

pub(crate) use setters;
