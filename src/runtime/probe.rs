//! One request without a network, timed by phase: what `fnhost bench`, `fnhost invoke` and the benchmarks are made of.
//!
//! It goes the way of any request from the gate on, so what it measures is what a request pays.

use super::function::Function;
use super::gate::Refused;
use super::guest::InvokeError;
use super::invoke::{self, Call, Measure};
use super::response::{GuestBody, Rest};
use crate::receipt::Phases;
use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use std::time::{Duration, Instant};

/// What one request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// By phase, on the clock.
    pub phases: Phases,
    /// Taking the sandbox apart, on the clock. It is behind the body, so no client waits for it.
    pub teardown: Duration,
    /// CPU time of the guest, its instantiation included.
    pub cpu: Duration,
    /// The most bytes that its memories and tables had together.
    pub memory_peak_bytes: u64,
    /// The status of the response; 0 where there was none.
    pub status: u16,
    /// Bytes of the upload that the guest read.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub body_bytes: u64,
}

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The gate refused the request.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The guest failed.
    #[error("{0}")]
    Failed(#[from] InvokeError),
}

/// Sends `request` through `function`, reads the whole response, and takes the sandbox apart.
pub async fn probe(function: &Function, request: Request<Full<Bytes>>, call: Call) -> Result<Sample, ProbeError> {
    let (sample, ended) = relay(function, request, call, |_| true, |_| true).await;
    ended.map(|()| sample)
}

/// The same, and hands the response on as it comes: its head to `head`, the parts of its body to `data`. If one of them gives
/// false, nobody reads any more, and the guest is stopped. The sample is whole as far as the request came.
pub async fn relay(
    function: &Function,
    request: Request<Full<Bytes>>,
    call: Call,
    head: impl FnOnce(&Parts) -> bool,
    data: impl FnMut(&Bytes) -> bool,
) -> (Sample, Result<(), ProbeError>) {
    let began = Instant::now();
    let permit = match function.gate.enter().await {
        Ok(permit) => permit,
        Err(refused) => return (Sample::default(), Err(refused.into())),
    };
    let measure = Measure::begin(function);
    let mut clock = Clock { head_at: None, read_at: None, status: 0, body_bytes: 0 };
    let ended = match invoke::invoke(function, permit, &measure, request, call).await {
        Ok(response) => read(response, &mut clock, head, data).await,
        Err(error) => Err(error),
    };
    let now = Instant::now();
    let head_at = clock.head_at.unwrap_or(now);
    let read_at = clock.read_at.unwrap_or(now);
    let usage = measure.usage();
    let (store, instantiate) = (measure.store(), measure.instantiate());
    let sample = Sample {
        phases: Phases {
            queue: measure.began().saturating_duration_since(began),
            store,
            instantiate,
            handler: head_at.saturating_duration_since(measure.began()).saturating_sub(store + instantiate),
            body: read_at.saturating_duration_since(head_at),
        },
        teardown: now.saturating_duration_since(read_at),
        cpu: usage.cpu,
        memory_peak_bytes: usage.memory_peak_bytes,
        status: clock.status,
        bytes_in: usage.bytes_in,
        body_bytes: clock.body_bytes,
    };
    (sample, ended.map_err(ProbeError::from))
}

/// When what of a response was there.
struct Clock {
    head_at: Option<Instant>,
    read_at: Option<Instant>,
    status: u16,
    body_bytes: u64,
}

async fn read(
    response: Response<GuestBody>,
    clock: &mut Clock,
    head: impl FnOnce(&Parts) -> bool,
    mut data: impl FnMut(&Bytes) -> bool,
) -> Result<(), InvokeError> {
    clock.head_at = Some(Instant::now());
    let (parts, mut body) = response.into_parts();
    clock.status = parts.status.as_u16();
    if !head(&parts) {
        return Ok(());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(part) = frame.data_ref() else { continue };
        clock.body_bytes += part.len() as u64;
        if !data(part) {
            return Ok(());
        }
    }
    clock.read_at = Some(Instant::now());
    match body.into_tail(Rest::Read) {
        Ok(tail) => tail.finish().await,
        Err(ended) => {
            drop(ended);
            Ok(())
        }
    }
}
