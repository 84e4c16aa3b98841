//! `GET /v2/`: the API is here. Everybody who may connect may ask.

use http::{HeaderValue, header};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::status;
use crate::v2::fault::Fault;

const BODY: &str = "{}";

pub(super) fn run(ask: &Ask) -> Result<Answer, Fault> {
    let answer = match ask.head.method == http::Method::HEAD {
        true => Answer::empty(status::DONE)
            .header(header::CONTENT_LENGTH, super::number(BODY.len() as u64)),
        false => Answer::bytes(status::DONE, BODY),
    };
    Ok(answer.header(header::CONTENT_TYPE, HeaderValue::from_static("application/json")))
}
