//! Stub.
use super::run::Scenario;
pub(super) const ALL: &[Scenario] = &[];
