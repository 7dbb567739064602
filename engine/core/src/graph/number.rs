//! Dense local numbers.

/// Makes a type for dense local numbers, which fit in four bytes also where there may be none.
macro_rules! dense_number {
    ($(#[$doc:meta])* $visibility:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility struct $name(std::num::NonZeroU32);

        #[allow(dead_code, reason = "not every kind of number is used in every way")]
        impl $name {
            /// The lowest number.
            pub(crate) const FIRST: Self = Self(std::num::NonZeroU32::MIN);

            /// Returns the number for a place that is known when this is compiled.
            pub(crate) const fn known(place: u32) -> Self {
                match std::num::NonZeroU32::new(place + 1) {
                    Some(number) => Self(number),
                    None => Self::FIRST,
                }
            }

            pub(crate) const fn as_usize(self) -> usize {
                self.0.get() as usize - 1
            }

            /// Returns the number for a place; `None` if it is too large.
            pub(crate) fn from_usize(place: usize) -> Option<Self> {
                std::num::NonZeroU32::new(u32::try_from(place.checked_add(1)?).ok()?).map(Self)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "#{}", self.as_usize())
            }
        }
    };
}

/// Gives a type of dense numbers the form in which it is stored.
macro_rules! stored_number {
    ($name:ident) => {
        impl $name {
            /// Returns the number as it is stored, from 0.
            pub fn number(self) -> u32 {
                self.0.get() - 1
            }

            /// Returns the number that is stored so; `None` if no number is.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::from_usize(number as usize)
            }
        }
    };
}

pub(crate) use dense_number;
pub(crate) use stored_number;
