//! What is sent to support: the evidence of an incident, without secrets and personal data.

pub mod packet;
pub mod redact;
mod text;

pub use packet::{Packet, Status, packet};
pub use redact::{Ids, Scrubber};
