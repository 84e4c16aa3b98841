//! One answer, from what an op returns to the bytes that hyper writes.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use serde::Serialize;
use wire::api::{DESCRIPTORS, ErrorBody};
use wire::stream::Descriptors;
use wire::{Code, Problem};

use crate::metrics::End;
use crate::outgoing::Coming;
use crate::record::Record;
use crate::status;

/// What an op answers.
pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

enum Content {
    Empty,
    Whole(Bytes),
    Stream { pieces: Coming, size: u64 },
    Descriptor(OwnedFd),
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

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
        Ok(Answer::of(status, Some(JSON), Content::Whole(bytes.into())))
    }

    fn of(status: StatusCode, content_type: Option<HeaderValue>, content: Content) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(content_type) = content_type {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        Answer { status, headers, content }
    }

    /// An answer with a status and no body.
    pub fn empty(status: StatusCode) -> Answer {
        Answer::of(status, None, Content::Empty)
    }

    /// An answer with a status and these bytes, whose type is given by [`Answer::header`].
    pub fn bytes(status: StatusCode, bytes: impl Into<Bytes>) -> Answer {
        Answer::of(status, None, Content::Whole(bytes.into()))
    }

    /// The same with these bytes as its body.
    #[must_use]
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Answer {
        self.content = Content::Whole(bytes.into());
        self
    }

    /// The same with another status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Answer {
        self.status = status;
        self
    }

    /// The same with a field in its header, in place of one of that name.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Answer {
        self.headers.insert(name, value);
        self
    }

    /// Plain text.
    pub fn text(text: String) -> Answer {
        Answer::of(status::DONE, Some(TEXT), Content::Whole(text.into()))
    }

    /// Done, and there is nothing to say.
    pub fn nothing() -> Answer {
        Answer::empty(status::NOTHING)
    }

    /// Bytes on their way; an error among them breaks the connection off.
    pub fn stream(pieces: Coming, size: u64) -> Answer {
        Answer::of(status::DONE, Some(OCTETS), Content::Stream { pieces, size })
    }

    /// A descriptor in place of a body.
    pub fn descriptor(descriptor: OwnedFd) -> Answer {
        Answer::of(status::DONE, None, Content::Descriptor(descriptor))
    }

    /// An error.
    pub fn problem(problem: Problem) -> Answer {
        let status = status::of(problem.code);
        Answer::with(status, &ErrorBody { error: problem }).unwrap_or(Answer::empty(status))
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
        *response.headers_mut() = self.headers;
        if n_descriptors > 0 {
            let name = HeaderName::from_static(DESCRIPTORS);
            response.headers_mut().insert(name, HeaderValue::from(n_descriptors));
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
    Stream { pieces: Coming, left: u64 },
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
            Rest::Stream { pieces, left } => match std::task::ready!(pieces.poll_next(cx)) {
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
