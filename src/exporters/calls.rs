//! Takes judged calls off the engine's queue and shows each to whoever wants to know.

use crate::engine::Judged;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Capacity of the queue.
pub const QUEUE: usize = 4_096;

/// Calls taken from the queue at once.
const BATCH: usize = 256;

/// Somebody who wants to know of each call.
pub type Listener = Box<dyn FnMut(&Judged) + Send>;

/// Shows calls until the engine ends.
pub fn spawn(mut judged: mpsc::Receiver<Judged>, mut listeners: Vec<Listener>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while judged.recv_many(&mut batch, BATCH).await > 0 {
            for call in batch.drain(..) {
                for listener in &mut listeners {
                    listener(&call);
                }
            }
        }
    })
}
