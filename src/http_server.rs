//! The small HTTP/1.1 server under our own ports: bounded in connections, in the wait for a request head, and in how long
//! a connection may live.
//!
//! A full house never keeps the next caller waiting for somebody who does nothing: the oldest connection that has asked
//! nothing is closed for it, then the oldest that waits between two requests. On a port that must answer whatever others
//! do, the oldest of all if nobody else is left.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// How long a client may take to send a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a port allows.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most connections at once.
    pub connections: usize,
    /// How long a connection may live.
    pub lifetime: Duration,
    /// Whether one that is being answered is cut for the next caller where all are.
    pub cut_busy: bool,
}

/// A connection, as the others know it.
#[derive(Debug, Default)]
struct Place {
    /// Requests that it has sent.
    asked: AtomicU64,
    /// Requests whose answers are not out yet.
    busy: AtomicUsize,
    cut: Notify,
}

/// The connections that are open, by age.
#[derive(Debug, Default)]
struct House {
    places: Mutex<BTreeMap<u64, Arc<Place>>>,
    /// Somebody left, or has nothing to do any more.
    freed: Notify,
}

impl House {
    fn enter(&self, age: u64, place: &Arc<Place>) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).insert(age, place.clone());
    }

    fn leave(&self, age: u64) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&age);
        self.freed.notify_one();
    }

    /// Makes room for one more; false if everybody is busy.
    fn make_room(&self, bounds: Bounds) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        while places.len() >= bounds.connections {
            let idle = |place: &Place| place.busy.load(Relaxed) == 0;
            let silent = |place: &Place| idle(place) && place.asked.load(Relaxed) == 0;
            let oldest =
                |which: &dyn Fn(&Place) -> bool| places.iter().find(|(_, p)| which(p)).map(|(age, _)| *age);
            let found = oldest(&silent).or_else(|| oldest(&idle));
            let found = found.or_else(|| oldest(&|_| bounds.cut_busy));
            let Some(place) = found.and_then(|age| places.remove(&age)) else { return false };
            place.cut.notify_one();
        }
        true
    }
}

/// While it lives, its connection is being answered.
struct Busy {
    place: Arc<Place>,
    house: Arc<House>,
}

impl Busy {
    fn new(place: &Arc<Place>, house: &Arc<House>) -> Self {
        place.asked.fetch_add(1, Relaxed);
        place.busy.fetch_add(1, Relaxed);
        Self { place: place.clone(), house: house.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.place.busy.fetch_sub(1, Relaxed);
        self.house.freed.notify_one();
    }
}

pin_project_lite::pin_project! {
    /// A body; its connection is busy until it is out, or dropped.
    struct Answering<B> {
        #[pin]
        inner: B,
        _busy: Busy,
    }
}

impl<B: Body> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Serves until dropped. Connections that are open then end by themselves.
pub async fn serve<A, F, B>(listener: TcpListener, bounds: Bounds, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let house = Arc::new(House::default());
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    for age in 0.. {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        };
        // With everybody busy the kernel's queue waits.
        while !house.make_room(bounds) {
            house.freed.notified().await;
        }
        let (answer, place) = (answer.clone(), Arc::new(Place::default()));
        house.enter(age, &place);
        let (of_place, of_house) = (place.clone(), house.clone());
        let service = service_fn(move |request| {
            let busy = Busy::new(&of_place, &of_house);
            let answered = answer(request);
            async move {
                let answer = answered.await;
                Ok::<_, Infallible>(answer.map(|inner| Answering { inner, _busy: busy }))
            }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        let house = house.clone();
        tokio::spawn(async move {
            tokio::select! {
                // A reader that takes longer than this holds a place that others need.
                ended = tokio::time::timeout(bounds.lifetime, connection) => if ended.is_err() {
                    tracing::debug!("an admin connection was cut");
                },
                () = place.cut.notified() => tracing::debug!("an admin connection made room for the next"),
            }
            house.leave(age);
        });
    }
}
