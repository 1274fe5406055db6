//! Newtypes for everything that is a number but must never be mixed up with another.
//!
//! Identities are random and written as hexadecimal text wherever people read them (JSON); counters are plain numbers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $int:ty, $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $digits, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$int>::from_str_radix(text, 16).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if !d.is_human_readable() {
                    return <$int>::deserialize(d).map(Self);
                }
                let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl $name {
            /// The number after this one. The highest has none: it never occurs, except in files and messages that
            /// somebody made up, which must not end the process that reads them.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity!(
    /// A server, for as long as its data directory lives. Drawn at random when the directory is made.
    NodeId, u64, "16"
);
identity!(
    /// One intact store. A server that finds its store corrupt takes a fresh one, so that nobody counts on the old data.
    StoreUuid, u128, "32"
);
identity!(
    /// A cluster, drawn by its ECS when the cluster is created.
    ClusterId, u128, "32"
);
identity!(
    /// A client session. The high half is the client's start in milliseconds since the Unix epoch, so that ids order
    /// by age; the low half is random. See [`crate::retry`] for what the order is used for.
    ClientId, u128, "32"
);

counter!(
    /// A view's number. One cluster-wide counter gives them out, so no two views of any slot share one.
    Epoch, u64
);
counter!(
    /// An entry's place in its slot's log; the first entry is 1, and 0 means "nothing yet".
    Seq, u64
);
counter!(
    /// How often a data directory has been started; durable, plus one at each start.
    BootId, u64
);
counter!(
    /// One of the equal pieces of the ring: the unit of ownership, replication, transfer and repair.
    Slot, u16
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_text_in_json_and_keys_of_maps() {
        let map = std::collections::BTreeMap::from([(NodeId(0xab), StoreUuid(1))]);
        let json = serde_json::to_string(&map).unwrap();
        assert_eq!(json, r#"{"00000000000000ab":"00000000000000000000000000000001"}"#);
        assert_eq!(serde_json::from_str::<std::collections::BTreeMap<NodeId, StoreUuid>>(&json).unwrap(), map);
    }
}
