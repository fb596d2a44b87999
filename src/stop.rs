//! The word to stop, as every part waits for it.

use tokio::sync::watch;

/// Says "stop" to every [`Stop`] made from it; dropping it says so too.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// Waits for the word to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// A stopper and what waits for it.
pub fn channel() -> (Stopper, Stop) {
    let (tx, rx) = watch::channel(false);
    (Stopper(tx), Stop(rx))
}

impl Stopper {
    /// One more that waits for it.
    pub fn stop_of(&self) -> Stop {
        Stop(self.0.subscribe())
    }

    /// Says so.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Returns once the word is given.
    pub async fn requested(&mut self) {
        // An error means that the stopper is gone, which is the same word.
        if self.0.wait_for(|stop| *stop).await.is_err() {
            tracing::debug!("the stopper was dropped");
        }
    }

    /// True once the word is given.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
