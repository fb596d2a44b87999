//! From a snapshot to the world. Exporters read snapshots; none knows a source or another exporter.

pub mod alertmanager;
pub mod calls;
pub mod catalogue;
pub mod genai;
pub mod otlp;
pub mod prometheus;
pub mod record;
pub mod spans;
pub mod tap;
