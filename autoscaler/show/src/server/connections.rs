//! Connections, with limits: a client that sends no request, or half of one, holds neither a descriptor for long nor the place
//! of another client.
//!
//! Every connection has [`HEADERS`] for the head of each request. There are at most [`limit`] of them: one more takes the place
//! of the one that has waited for a request for longest, so that a probe is answered however many are held open.

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Time limit of the head of a request, from the beginning of the connection or the end of the request before.
const HEADERS: Duration = Duration::from_secs(10);

/// The most bytes of a head that are kept.
const HEAD_BYTES: usize = 64 << 10;

/// The most connections at once: a page, two probes and a scrape need a handful.
const MOST: usize = 256;

/// Wait before the next accept if no descriptor is left and no connection can be closed.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `end` comes, then lets open requests finish. Connections end with the future.
pub(super) async fn serve(listener: TcpListener, router: Router, end: impl Future<Output = ()>) {
    let mut end = pin!(end);
    let (ending, ended) = watch::channel(());
    let mut connections = Connections { limit: limit(), open: Vec::new(), tasks: JoinSet::new() };
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(_) = connections.tasks.join_next() => connections.forget_ended(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => connections.add(stream, &router, ended.clone()),
                // It has gone again.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, open = connections.open.len(), "cannot accept a connection");
                    if !connections.end_one() {
                        tokio::time::sleep(BREATH).await;
                    }
                }
            },
        }
    }
    drop(listener);
    // Nobody listens where nothing is open.
    let _ = ending.send(());
    while connections.tasks.join_next().await.is_some() {}
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The most connections at once: a quarter of the descriptors that this process may have is for other things many times over.
fn limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limit_of(&limits)
}

fn limit_of(limits: &str) -> usize {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).and_then(|soft| soft.parse::<usize>().ok());
    soft.map_or(MOST, |soft| (soft / 4).clamp(8, MOST))
}

/// Since when a connection has waited for a request; none while one is answered.
type Waiting = Arc<Mutex<Option<Instant>>>;

fn set(waiting: &Waiting, since: Option<Instant>) {
    *waiting.lock().unwrap_or_else(PoisonError::into_inner) = since;
}

struct Open {
    task: AbortHandle,
    waiting: Waiting,
}

struct Connections {
    limit: usize,
    open: Vec<Open>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn add(&mut self, stream: TcpStream, router: &Router, ended: watch::Receiver<()>) {
        self.forget_ended();
        if self.open.len() >= self.limit && !self.end_one() {
            tracing::warn!(open = self.open.len(), "too many requests at once: a connection was closed");
            return;
        }
        let waiting = Waiting::default();
        set(&waiting, Some(Instant::now()));
        let task = self.tasks.spawn(answer(stream, router.clone(), Arc::clone(&waiting), ended));
        self.open.push(Open { task, waiting });
    }

    fn forget_ended(&mut self) {
        self.open.retain(|open| !open.task.is_finished());
    }

    /// Ends the connection that has waited for a request for longest; whether there was one.
    fn end_one(&mut self) -> bool {
        let since = |open: &Open| *open.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.open.iter().enumerate().filter_map(|(index, open)| Some((since(open)?, index)));
        let Some((_, index)) = waiting.min() else { return false };
        self.open.swap_remove(index).task.abort();
        true
    }
}

/// Answers the requests of one connection.
async fn answer(stream: TcpStream, router: Router, waiting: Waiting, mut ended: watch::Receiver<()>) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        set(&waiting, None);
        let (answer, waiting) = (router.call(request), Arc::clone(&waiting));
        async move {
            let answer = answer.await;
            set(&waiting, Some(Instant::now()));
            answer
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let done = tokio::select! {
        done = connection.as_mut() => done,
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_leaves_descriptors_for_everything_else() {
        let limits = |soft: &str| {
            limit_of(&format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax processes 5 5 processes\nMax open files  {soft}  4096  files\n"
            ))
        };
        assert_eq!(limits("1024"), 256);
        assert_eq!(limits("1048576"), 256);
        assert_eq!(limits("100"), 25);
        assert_eq!(limits("16"), 8);
        assert_eq!(limits("unlimited"), 256);
        assert_eq!(limit_of(""), 256);
    }
}
