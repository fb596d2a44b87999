//! An upstream and a client that see and say exact bytes.

use super::{PATIENCE, accept};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// One connection at the upstream.
pub struct Conn {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Conn {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `end` has come; returns everything up to and with it. `None` at the end.
    pub async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = find(&self.buffer, end.as_bytes()) {
                let rest = self.buffer.split_off(at + end.len());
                let read = std::mem::replace(&mut self.buffer, rest);
                return Some(String::from_utf8_lossy(&read).into_owned());
            }
            let mut chunk = [0; 16_384];
            let n = tokio::time::timeout(PATIENCE, self.stream.read(&mut chunk)).await.unwrap_or_else(|_| {
                panic!("waited in vain for {end:?}, have {:?}", String::from_utf8_lossy(&self.buffer))
            });
            match n {
                Ok(n) if n > 0 => self.buffer.extend_from_slice(&chunk[..n]),
                _ => return None,
            }
        }
    }

    /// Reads a message head.
    pub async fn head(&mut self) -> Option<String> {
        self.until("\r\n\r\n").await
    }

    /// Reads exactly `n` bytes.
    pub async fn exactly(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            let mut chunk = vec![0; 65_536];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut chunk))
                .await
                .expect("bytes in time")
                .unwrap();
            assert!(read > 0, "ended after {} of {n} bytes", self.buffer.len());
            self.buffer.extend_from_slice(&chunk[..read]);
        }
        let rest = self.buffer.split_off(n);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads to the end; an error counts as one.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        self.rest_patiently(PATIENCE).await
    }

    /// The same, waiting longer (on paused time that costs nothing).
    pub async fn rest_patiently(&mut self, patience: std::time::Duration) -> (Vec<u8>, bool) {
        let mut out = std::mem::take(&mut self.buffer);
        let clean =
            tokio::time::timeout(patience, self.stream.read_to_end(&mut out)).await.expect("an end").is_ok();
        (out, clean)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// The value of a header in a message head, by name in any case.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().skip(1).find_map(|line| {
        let (n, v) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// An upstream that runs a script on each connection.
pub struct Upstream {
    pub address: SocketAddr,
    pub connections: Arc<Mutex<usize>>,
}

impl Upstream {
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (address, connections) = accept(move |stream| script(Conn::new(stream))).await;
        Self { address, connections }
    }

    /// Answers every request with these bytes, after reading its head and `content-length` bytes.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::recording(answer).await.0
    }

    /// The same, and hands over the head and the body of each request.
    pub async fn recording(answer: impl Into<Vec<u8>>) -> (Self, UnboundedReceiver<String>) {
        let (tx, seen) = unbounded_channel();
        let answer = Arc::new(answer.into());
        let upstream = Self::start(move |mut conn| {
            let (tx, answer) = (tx.clone(), answer.clone());
            async move {
                while let Some(head) = conn.head().await {
                    let length = header(&head, "content-length").map_or(0, |l| l.parse().unwrap());
                    let body = conn.exactly(length).await;
                    // Whoever does not want to see them has dropped the other end.
                    tx.send(head + &String::from_utf8_lossy(&body)).ok();
                    conn.write(&*answer).await;
                }
            }
        });
        (upstream.await, seen)
    }

    /// Takes requests and answers none; keeps each connection until the hop ends it.
    pub async fn silent() -> Self {
        Self::start(|mut conn| async move {
            conn.head().await.unwrap();
            conn.rest().await;
        })
        .await
    }
}
