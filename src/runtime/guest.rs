//! A guest at work, held to its limits; and the ways in which it can fail.
//!
//! **Invariant:** a guest that is not polled any more is dropped, and its sandbox with it, as soon as it has ended.

use super::meter::{Meter, Stop};
use super::sandbox::Sandbox;
use super::text::printable;
use crate::receipt::Outcome;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use wasmtime_wasi::I32Exit;

/// Why a request got no answer from its guest, or not all of one.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The guest trapped or panicked.
    #[error("the guest trapped: {0}")]
    Trap(String),
    /// The guest ended its program while it was to answer.
    #[error("the guest exited with status {0}")]
    Exit(i32),
    /// The guest is done and gave no response.
    #[error("the guest gave no response{0}")]
    NoResponse(String),
    /// The guest gave an error code of `wasi:http` in place of a response.
    #[error("the guest answered with the error code {0}")]
    GuestError(String),
    /// Over `timeout`.
    #[error("the guest ran longer than its timeout")]
    Timeout,
    /// Over `cpu`.
    #[error("the guest used more CPU time than its limit")]
    CpuLimit,
    /// Trapped after a growth over `memory` was refused.
    #[error("the guest wanted more memory than its limit, and trapped: {0}")]
    MemoryLimit(String),
    /// The upload is over `request-body`.
    #[error("the upload is larger than the limit")]
    BodyTooLarge,
    /// The client broke the framing of its upload.
    #[error("the upload is in broken chunks")]
    UploadMalformed,
    /// The client stopped sending in the middle of its upload.
    #[error("the client stopped sending in the middle of its upload")]
    UploadStalled,
    /// The client went away in the middle of its upload, and the guest went down with it.
    #[error("the client went away in the middle of its upload")]
    UploadBroken,
    /// The request's headers are more than a command's environment can hold.
    #[error("the request's headers do not fit into a command's environment")]
    HeadersTooLarge,
    /// The sandbox could not be made.
    #[error("the sandbox could not be made: {0}")]
    Host(String),
}

impl InvokeError {
    /// The stable code of this failure.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Trap(_) | Self::Exit(_) => Outcome::Trap,
            Self::NoResponse(_) => Outcome::NoResponse,
            Self::GuestError(_) => Outcome::GuestError,
            Self::Timeout => Outcome::Timeout,
            Self::CpuLimit => Outcome::CpuLimit,
            Self::MemoryLimit(_) => Outcome::MemoryLimit,
            Self::BodyTooLarge => Outcome::BodyTooLarge,
            Self::UploadMalformed => Outcome::BadRequest,
            Self::UploadStalled => Outcome::BodyTimeout,
            Self::UploadBroken => Outcome::ClientGone,
            Self::HeadersTooLarge => Outcome::HeadersTooLarge,
            Self::Host(_) => Outcome::Host,
        }
    }
}

/// By how much a limit has to be nearer for a timer that is set to be set anew: reading the clock twice is not that.
const EARLIER: Duration = Duration::from_millis(1);
/// The most bytes of a trap's text, which has names from the guest's own file in it.
const TRAP_TEXT_BYTES_MAX: usize = 8 << 10;
/// The most bytes of what a guest says of its own failure.
const ERROR_TEXT_BYTES_MAX: usize = 1 << 10;

/// A guest's work: instantiate, call, and whatever it does until it has ended.
pub(super) type GuestFuture = Pin<Box<dyn Future<Output = (Sandbox, wasmtime::Result<()>)> + Send>>;

/// A guest at work.
pub(super) struct Guest {
    state: GuestState,
    pub(super) meter: Arc<Meter>,
    /// Registered when there is first something to wait for, and not before: most never wait.
    sleep: Option<Pin<Box<Sleep>>>,
}

enum GuestState {
    Running(GuestFuture),
    /// It has ended well. What it left of its body may still be in its sandbox.
    Ended(#[expect(dead_code, reason = "held to be dropped, later")] Sandbox),
    Gone,
}

impl Guest {
    pub(super) fn new(future: GuestFuture, meter: Arc<Meter>) -> Self {
        Self { state: GuestState::Running(future), meter, sleep: None }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, GuestState::Running(_))
    }

    /// Stops it, wherever it is, and drops its sandbox.
    pub(super) fn stop(&mut self) {
        self.state = GuestState::Gone;
    }

    /// Lets the guest work until it waits or ends. Ready again and again once it has ended well.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        let GuestState::Running(future) = &mut self.state else { return Poll::Ready(Ok(())) };
        let error = match self.meter.count_cpu(|| future.as_mut().poll(cx)) {
            Poll::Ready((sandbox, Ok(()))) => {
                self.state = GuestState::Ended(sandbox);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready((_sandbox, Err(error))) => self.classify(&error),
            Poll::Pending => std::task::ready!(self.poll_limits(cx)),
        };
        self.stop();
        Poll::Ready(Err(error))
    }

    /// Ready when a guest that waits passes a limit: the epochs do not see it.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<InvokeError> {
        loop {
            let left = match self.meter.check_waiting() {
                Ok(Some(left)) => left,
                Ok(None) => return Poll::Pending,
                Err(stop) => return Poll::Ready(InvokeError::of_stop(stop)),
            };
            let until = Instant::now() + left;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            // It was set while the guest waited for something else, and now it waits for its upload.
            if sleep.deadline() > until + EARLIER {
                sleep.as_mut().reset(until);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // It was set before the guest waited for its upload, and there is time left.
            self.sleep = None;
        }
    }

    fn classify(&self, error: &wasmtime::Error) -> InvokeError {
        let text = printable(format!("{error:#}").as_bytes(), TRAP_TEXT_BYTES_MAX);
        if self.meter.upload.too_large() {
            return InvokeError::BodyTooLarge;
        }
        if self.meter.upload.malformed() {
            return InvokeError::UploadMalformed;
        }
        if self.meter.upload.broke_off() {
            return InvokeError::UploadBroken;
        }
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return InvokeError::of_stop(*stop);
        }
        if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
            return InvokeError::Exit(*status);
        }
        if self.meter.memory_refused() {
            return InvokeError::MemoryLimit(text);
        }
        if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            return InvokeError::Host(text);
        }
        InvokeError::Trap(text)
    }
}

impl InvokeError {
    /// What a guest says of its failure, as much as may be kept of it.
    pub(super) fn of_guest(text: &str) -> Self {
        Self::GuestError(printable(text.as_bytes(), ERROR_TEXT_BYTES_MAX))
    }

    pub(super) fn of_stop(stop: Stop) -> Self {
        match stop {
            Stop::CpuLimit => Self::CpuLimit,
            Stop::Timeout => Self::Timeout,
            Stop::UploadTooLarge => Self::BodyTooLarge,
            Stop::UploadStalled => Self::UploadStalled,
        }
    }
}
