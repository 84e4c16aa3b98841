//! `HEAD /v2/**/manifests/*`: whether a manifest is in a repository, its digest, type and size.

use http::header;

use super::manifest_get::{described, find};
use super::number;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::status;
use crate::v2::fault::Fault;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let found = find(ask).await?;
    let answer = Answer::empty(status::DONE).header(header::CONTENT_LENGTH, number(found.size()));
    described(answer, &found)
}
