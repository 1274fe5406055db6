//! Recovery against a model: whatever happened to the files, what comes back is what was written, or an error.

mod damaged;
mod interrupted;
mod journal;
mod store;
mod world;
