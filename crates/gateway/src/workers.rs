//! The threads that serve connections.
//!
//! What must stay true: a connection stays on the thread that it was given to, and all that is done for it, to the
//! connection to the backend, happens there. Pingora's own threads hand the watch over a backend's kept connection to any
//! of them after each request, and threads then wake each other all the time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{self, Handle};
use tokio::sync::watch;

/// Threads, each with a runtime of its own. They end with the last clone.
#[derive(Clone, Debug)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    threads: Box<[Handle]>,
    next: AtomicUsize,
    /// Closed when the threads are to end.
    _alive: watch::Sender<()>,
}

impl Workers {
    /// Starts as many threads, one at least.
    ///
    /// # Errors
    /// If the system has no more threads or descriptors.
    pub fn start(count: usize) -> io::Result<Self> {
        let (alive, ended) = watch::channel(());
        let start = |number| {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let mut ended = ended.clone();
            let serve = move || runtime.block_on(async { while ended.changed().await.is_ok() {} });
            thread::Builder::new().name(format!("worker-{number}")).spawn(serve)?;
            Ok(handle)
        };
        let threads = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self(Arc::new(Shared { threads, next: AtomicUsize::new(0), _alive: alive })))
    }

    /// The thread for another connection: each in turn.
    pub fn next(&self) -> &Handle {
        let Shared { threads, next, .. } = &*self.0;
        &threads[next.fetch_add(1, Ordering::Relaxed) % threads.len()]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn threads_take_turns_keep_what_they_are_given_and_end() {
        let workers = Workers::start(2).unwrap();
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for _ in 0..6 {
            let sender = sender.clone();
            workers.next().spawn(async move {
                let before = thread::current().id();
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_eq!(tokio::spawn(async { thread::current().id() }).await.unwrap(), before);
                sender.send(format!("{before:?}")).unwrap();
            });
        }
        let seen: Vec<_> = (0..6).map(|_| receiver.blocking_recv().unwrap()).collect();
        let different: BTreeSet<_> = seen.iter().collect();
        assert_eq!(different.len(), 2);
        assert!(different.into_iter().all(|thread| seen.iter().filter(|other| *other == thread).count() == 3));
        // What a thread has not finished is dropped with it.
        workers.next().spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        drop(workers);
        assert_eq!(receiver.blocking_recv(), None);
    }
}
