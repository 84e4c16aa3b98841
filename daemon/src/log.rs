//! Where lines of the log go: to standard error, by a thread of their own.
//!
//! Who logs never waits for whoever reads the log. The queue is bounded; a line that finds it full
//! is dropped and counted, and the count is told once there is room again.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::LogFormat;

/// Lines that wait at most.
const QUEUE: usize = 4096;

/// So long lines are gathered after some were written, to be written together.
const TOGETHER: Duration = Duration::from_millis(2);

enum Line {
    Text(Vec<u8>),
    End,
}

/// Keeps the log's thread; dropped, it writes out what waits.
pub struct Log {
    queue: SyncSender<Line>,
    thread: Option<JoinHandle<()>>,
}

/// Hands lines to the thread.
#[derive(Clone)]
struct Queue {
    queue: SyncSender<Line>,
    n_dropped: Arc<AtomicU64>,
}

impl Log {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// When the filter is no filter, or a log was started before.
    pub fn start(format: LogFormat, filter: &str) -> Result<Log, String> {
        let filter = EnvFilter::try_new(filter).map_err(|e| format!("log.level: {e}"))?;
        let (queue, lines) = sync_channel(QUEUE);
        let n_dropped = Arc::new(AtomicU64::new(0));
        let thread = Builder::new()
            .name("log".to_owned())
            .spawn({
                let n_dropped = n_dropped.clone();
                move || write_out(&lines, &n_dropped)
            })
            .map_err(|e| format!("the log's thread: {e}"))?;
        let writer = Queue { queue: queue.clone(), n_dropped };
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        match format {
            LogFormat::Text => lines.with_ansi(false).try_init(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        }
        .map_err(|e| e.to_string())?;
        Ok(Log { queue, thread: Some(thread) })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.queue.send(Line::End).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn write_out(lines: &Receiver<Line>, n_dropped: &AtomicU64) {
    let mut out = io::BufWriter::with_capacity(64 << 10, io::stderr());
    while let Ok(first) = lines.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            match line {
                // A log that cannot be written is nobody's to be told about.
                Line::Text(text) => drop(out.write_all(&text)),
                Line::End => {
                    let _ = out.flush();
                    return;
                }
            }
            next = lines.try_recv().ok();
        }
        match n_dropped.swap(0, Ordering::Relaxed) {
            0 => {}
            n => drop(writeln!(out, "{n} lines of the log were dropped: standard error is slow")),
        }
        let _ = out.flush();
        // Under load lines come by the thousand a second: to be woken for each costs those who log
        // more than to write it.
        std::thread::sleep(TOGETHER);
    }
}

impl io::Write for Queue {
    /// Called once for each whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Line::Text(line.to_vec())).is_err() {
            self.n_dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Queue;

    fn make_writer(&'a self) -> Queue {
        self.clone()
    }
}
