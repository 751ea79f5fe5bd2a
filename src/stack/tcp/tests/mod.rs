//! Behaviour of the engine, one file per subject.
