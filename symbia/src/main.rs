//! The symbia binary.
fn main() {}
