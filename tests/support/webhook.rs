//! A receiver of webhooks and of Alertmanager's API: remembers every body.

use super::serve_http1;
use http_body_util::{BodyExt, Full};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::TcpListener;

#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub body: serde_json::Value,
    pub at: Instant,
    pub received: jiff::Timestamp,
}

#[derive(Clone)]
pub struct Webhook {
    pub address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    status: Arc<Mutex<u16>>,
}

impl Webhook {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let hook = Self {
            address: listener.local_addr().unwrap(),
            posts: Arc::default(),
            status: Arc::new(Mutex::new(200)),
        };
        let kept = hook.clone();
        serve_http1(listener, move |request: http::Request<hyper::body::Incoming>| {
            let kept = kept.clone();
            async move {
                let path = request.uri().path().to_owned();
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                kept.posts.lock().unwrap().push(Post {
                    path,
                    body,
                    at: now(),
                    received: jiff::Timestamp::now(),
                });
                let mut response = http::Response::new(Full::<bytes::Bytes>::default());
                *response.status_mut() = http::StatusCode::from_u16(*kept.status.lock().unwrap()).unwrap();
                response
            }
        });
        hook
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    pub fn answer_with(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }
}

#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}
