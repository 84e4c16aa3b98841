//! One answer, from what an op returns to the bytes that hyper writes.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::mpsc::Receiver;
use wire::api::{DESCRIPTORS, ErrorBody};
use wire::stream::Descriptors;
use wire::{Code, Problem};

use crate::metrics::End;
use crate::record::Record;
use crate::status;

/// What an op answers.
pub struct Answer {
    status: StatusCode,
    content_type: Option<&'static str>,
    content: Content,
}

enum Content {
    Empty,
    Whole(Bytes),
    Stream { pieces: Receiver<io::Result<Bytes>>, size: u64 },
    Descriptor(OwnedFd),
}

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Answer {
    /// What was asked for, as JSON.
    ///
    /// # Errors
    /// [`Code::Internal`] when it cannot be written as JSON.
    pub fn json(value: &impl Serialize) -> Result<Answer, Problem> {
        Answer::with(status::DONE, value)
    }

    /// What was made, as JSON.
    ///
    /// # Errors
    /// [`Code::Internal`] when it cannot be written as JSON.
    pub fn made(value: &impl Serialize) -> Result<Answer, Problem> {
        Answer::with(status::MADE, value)
    }

    fn with(status: StatusCode, value: &impl Serialize) -> Result<Answer, Problem> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "an answer is no JSON");
            Problem::new(Code::Internal, "the answer could not be written")
        })?;
        Ok(Answer { status, content_type: Some(JSON), content: Content::Whole(bytes.into()) })
    }

    /// Plain text.
    pub fn text(text: String) -> Answer {
        let content = Content::Whole(text.into());
        Answer { status: status::DONE, content_type: Some(TEXT), content }
    }

    /// Done, and there is nothing to say.
    pub fn nothing() -> Answer {
        Answer { status: status::NOTHING, content_type: None, content: Content::Empty }
    }

    /// Bytes on their way; an error among them breaks the connection off.
    pub fn stream(pieces: Receiver<io::Result<Bytes>>, size: u64) -> Answer {
        let content = Content::Stream { pieces, size };
        Answer { status: status::DONE, content_type: Some(OCTETS), content }
    }

    /// A descriptor in place of a body.
    pub fn descriptor(descriptor: OwnedFd) -> Answer {
        let content = Content::Descriptor(descriptor);
        Answer { status: status::DONE, content_type: None, content }
    }

    /// An error.
    pub fn problem(problem: Problem) -> Answer {
        let status = status::of(problem.code);
        Answer::with(status, &ErrorBody { error: problem }).unwrap_or(Answer {
            status,
            content_type: None,
            content: Content::Empty,
        })
    }

    /// The answer as hyper takes it. The record goes with it and ends with its last byte.
    pub fn into_response(
        self,
        mut record: Record,
        descriptors: &Descriptors,
    ) -> Response<AnswerBody> {
        let mut n_descriptors = 0;
        let rest = match self.content {
            Content::Empty => Rest::Nothing,
            Content::Whole(bytes) => Rest::Whole(bytes),
            Content::Stream { pieces, size } => Rest::Stream { pieces, left: size },
            Content::Descriptor(descriptor) => match descriptors.put(descriptor) {
                Ok(()) => {
                    n_descriptors = 1;
                    Rest::Nothing
                }
                Err(error) => {
                    tracing::error!(%error, "a descriptor could not be sent");
                    record.close(End::Failed(Code::Internal));
                    let problem = Problem::new(Code::Internal, "the descriptor could not be sent");
                    return Answer::problem(problem).into_response(record, descriptors);
                }
            },
        };
        let mut response = Response::new(AnswerBody { rest, record });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(content_type) = self.content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if n_descriptors > 0 {
            headers.insert(HeaderName::from_static(DESCRIPTORS), HeaderValue::from(n_descriptors));
        }
        response
    }
}

/// The body of an answer.
pub struct AnswerBody {
    rest: Rest,
    record: Record,
}

enum Rest {
    Nothing,
    Whole(Bytes),
    Stream { pieces: Receiver<io::Result<Bytes>>, left: u64 },
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let AnswerBody { rest, record } = self.get_mut();
        match rest {
            Rest::Nothing => Poll::Ready(None),
            Rest::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *rest = Rest::Nothing;
                record.went_out(bytes.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Rest::Stream { pieces, left } => match std::task::ready!(pieces.poll_recv(cx)) {
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    record.went_out(bytes.len() as u64);
                    if *left == 0 {
                        *rest = Rest::Nothing;
                    }
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Some(Err(error)) => {
                    // The header said 200 long ago: all that can be done is not to complete it.
                    let rotten = error.kind() == io::ErrorKind::InvalidData;
                    record.fail(if rotten { Code::Corrupt } else { Code::StoreIo });
                    Poll::Ready(Some(Err(error)))
                }
                None => {
                    record.fail(Code::Internal);
                    Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.rest, Rest::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.rest {
            Rest::Nothing => 0,
            Rest::Whole(bytes) => bytes.len() as u64,
            Rest::Stream { left, .. } => *left,
        })
    }
}

impl Drop for AnswerBody {
    /// A stream that is dropped before its end was cut off by the peer.
    fn drop(&mut self) {
        if let Rest::Stream { .. } = self.rest {
            self.record.cut_off();
        }
    }
}
