//! The thread that writes lines, and the bounded queue in front of it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::metrics::Counter;

/// Lines that may wait for the disk: a second of heavy load.
const QUEUE_LINES_MAX: usize = 16_384;

/// Bytes that may wait. Lines are short, unless somebody wants to fill our memory.
const QUEUE_BYTES_MAX: usize = 8 << 20;

/// Bytes that are written at once.
const BATCH_BYTES_MAX: usize = 64 * 1024;

/// How long to wait before asking again whether the queue has room for a request to flush.
const FLUSH_PAUSE: Duration = Duration::from_millis(5);

/// How long lines may gather before they are written. Waking the thread costs a request more than making its line, and this
/// way it is woken a hundred times a second at most.
const BATCH_PAUSE: Duration = Duration::from_millis(10);

/// How long an idle writer waits before it looks whether the file is to be opened anew, should its wake-up have been lost.
const IDLE_MAX: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Look at [`Shared::reopen`].
    Wake,
    /// Say when everything before this is written.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Shared {
    queued_bytes: AtomicUsize,
    reopen: AtomicBool,
    dropped: Arc<Counter>,
}

/// The way to the thread. When it is dropped, the thread writes what is queued and ends.
#[derive(Debug)]
pub(super) struct Queue {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Opens the file, or standard output, and starts the thread.
    pub(super) fn open(path: Option<&Path>, dropped: Arc<Counter>) -> io::Result<Self> {
        let sink = match path {
            Some(path) => Sink::File(open_file(path)?, path.to_owned()),
            None => Sink::StandardOutput,
        };
        let (sender, receiver) = sync_channel(QUEUE_LINES_MAX);
        let shared = Arc::new(Shared { queued_bytes: AtomicUsize::new(0), reopen: AtomicBool::new(false), dropped });
        let writer = Writer { receiver, shared: Arc::clone(&shared), sink, batch: Vec::new(), lines: 0, is_failing: false };
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run())?;
        Ok(Self { sender, shared })
    }

    /// Queues a line, or drops it if there is no room. Never waits.
    pub(super) fn push(&self, line: Vec<u8>) {
        let bytes = line.len();
        let fits = self.shared.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= QUEUE_BYTES_MAX;
        if !fits || self.sender.try_send(Message::Line(line)).is_err() {
            self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.increment();
        }
    }

    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // With a full queue the writer is awake, and looks before it writes.
        let _ = self.sender.try_send(Message::Wake);
    }

    pub(super) fn flush(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        while self.sender.try_send(Message::Flush(done.clone())).is_err() {
            if Instant::now() >= end {
                return;
            }
            thread::sleep(FLUSH_PAUSE);
        }
        // An error means that the time is over, or the thread with it: there is nothing left to wait for.
        let _ = written.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

enum Sink {
    StandardOutput,
    File(File, PathBuf),
}

/// Only we and our group read it: it tells who pulled what.
fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

struct Writer {
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
    sink: Sink,
    batch: Vec<u8>,
    /// Lines in the batch.
    lines: u64,
    /// The last batch could not be written.
    is_failing: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.receiver.recv_timeout(IDLE_MAX) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // One batch after the other, until there is nothing left to write.
            while self.fill() {
                let is_full = self.batch.len() >= BATCH_BYTES_MAX;
                self.write();
                if !is_full {
                    thread::sleep(BATCH_PAUSE);
                }
            }
            self.write();
        }
    }

    /// Takes what is queued, up to a batch; says whether there is something to write.
    fn fill(&mut self) -> bool {
        while self.batch.len() < BATCH_BYTES_MAX
            && let Ok(message) = self.receiver.try_recv()
        {
            self.take(message);
        }
        self.lines > 0
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.shared.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                self.batch.extend_from_slice(&line);
                self.lines += 1;
            }
            Message::Wake => {}
            Message::Flush(done) => {
                self.write();
                // Whoever asked may have stopped waiting.
                let _ = done.try_send(());
            }
        }
    }

    fn write(&mut self) {
        if self.shared.reopen.swap(false, Ordering::Acquire) {
            self.reopen();
        }
        if self.batch.is_empty() {
            return;
        }
        if self.is_failing {
            // Half a line may stand at the end, and must not swallow the next one.
            self.batch.insert(0, b'\n');
        }
        let written = match &mut self.sink {
            Sink::StandardOutput => {
                let mut out = io::stdout().lock();
                out.write_all(&self.batch).and_then(|()| out.flush())
            }
            Sink::File(file, _) => file.write_all(&self.batch),
        };
        if let Err(error) = &written {
            self.shared.dropped.add(self.lines);
            // Once: the disk stays full for longer than a request takes.
            if !self.is_failing {
                error!(%error, "the access log cannot be written");
            }
        } else if self.is_failing {
            info!("the access log is written again");
        }
        self.is_failing = written.is_err();
        self.batch.clear();
        self.lines = 0;
    }

    fn reopen(&mut self) {
        if let Sink::File(file, path) = &mut self.sink {
            match open_file(path) {
                Ok(opened) => {
                    *file = opened;
                    self.is_failing = false;
                }
                Err(error) => error!(path = %path.display(), %error, "the access log cannot be opened again; it goes on where it was"),
            }
        }
    }
}
