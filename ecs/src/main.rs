//! The external configuration service's binary.

fn main() {}
