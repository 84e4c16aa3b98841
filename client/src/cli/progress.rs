//! A bar on standard error, when somebody looks at it.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Context, Format};
use crate::progress::Progress;

const EVERY: Duration = Duration::from_millis(100);

/// Shows how far `work` is until it ends. It is silent for pipes, programs and the quiet.
pub(super) async fn show<F: Future>(
    context: &Context,
    what: &'static str,
    progress: &Progress,
    work: F,
) -> F::Output {
    let common = &context.common;
    if common.quiet || common.format == Format::Json || !std::io::stderr().is_terminal() {
        return work.await;
    }
    let bar = ProgressBar::new(0).with_message(what);
    let ticking = async {
        loop {
            tokio::time::sleep(EVERY).await;
            bar.set_style(style(progress.total() > 0));
            bar.set_length(progress.total());
            bar.set_position(progress.done());
            bar.tick();
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = ticking => return std::future::pending().await,
    };
    bar.finish_and_clear();
    done
}

fn style(has_total: bool) -> ProgressStyle {
    let template = match has_total {
        true => "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        false => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
