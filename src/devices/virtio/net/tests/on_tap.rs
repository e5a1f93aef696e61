//! A driver and a network, both well behaved or not, around one card. No KVM; each test has a network namespace of its
//! own.

mod cable;
mod driver;
mod hostile;
mod moves;
