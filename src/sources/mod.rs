//! Where observations come from. Passive sources see traffic; none knows an exporter.

pub mod proxy;
