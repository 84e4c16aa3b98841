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
            bar.set_style(style(progress));
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

/// What there is to show: a file that goes in one request is not asked how far it is.
fn style(progress: &Progress) -> ProgressStyle {
    let template = match (progress.total(), progress.done()) {
        (0, _) => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        (_, 0) => "{msg} {spinner} {binary_total_bytes} {elapsed}",
        _ => "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
