//! The kernel matrix of `cargo xtask vm`: one fixed set of captures, run inside a virtual machine by
//! every back end of the agent ([`guest`]), and what came out of all machines compared ([`judge`]).
//! And the package under a real systemd ([`systemd`]), for `cargo xtask deb --boot`.

pub mod expect;
pub mod guest;
pub mod judge;
pub mod report;
pub mod scenarios;
pub mod systemd;
