//! Stub.
pub fn listing() -> String { super::run::all().iter().map(|s| format!("{}\n", s.name)).collect() }
