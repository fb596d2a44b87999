//! From observations to pressure, forecasts, alerts and incidents. Pure: `now` is passed in, there
//! is no IO and nothing fails. Only [`task`] touches the outside.

pub mod alert;
mod book;
mod bucket;
mod burst;
pub mod foresight;
mod incident;
mod incidents;
mod local;
mod once;
mod pools;
mod quotas;
mod reports;
mod snapshot;
pub mod task;
mod window;

pub use alert::{Alert, AlertName, Identity, Severity, Thresholds};
pub(crate) use book::proved_surface;
pub use book::{Book, BookLimits, BucketKey, Judged};
pub use bucket::{Bucket, Forecast, Pace};
pub use incident::{Attempt, Cause, Change, Incident, Over, What};
pub use incidents::{ChangeKey, Turn};
pub use local::LocalRules;
pub use reports::Settled;
pub use snapshot::{BucketView, MissingKey, RejectionKey, RejectionView, Snapshot};
pub use window::Window;
