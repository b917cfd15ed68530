//! One request without a network, timed by phase: what `fnhost bench` and the benchmarks are made of.
//!
//! It goes the way of any request from the gate on, so what it measures is what a request pays.

use super::function::Function;
use super::gate::Refused;
use super::guest::InvokeError;
use super::invoke::{self, Call, Measure};
use super::response::Rest;
use crate::receipt::Phases;
use bytes::Bytes;
use http::Request;
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
    /// The status of the response.
    pub status: u16,
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
    let began = Instant::now();
    let permit = function.gate.enter().await?;
    let measure = Measure::begin(function);
    let response = invoke::invoke(function, permit, &measure, request, call).await?;
    let head_at = Instant::now();
    let (head, mut body) = response.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        body_bytes += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    let read_at = Instant::now();
    match body.into_tail(Rest::Read) {
        Ok(tail) => tail.finish().await?,
        Err(ended) => drop(ended),
    }
    let teardown = read_at.elapsed();
    let usage = measure.usage();
    let (store, instantiate) = (measure.store(), measure.instantiate());
    Ok(Sample {
        phases: Phases {
            queue: measure.began().saturating_duration_since(began),
            store,
            instantiate,
            handler: head_at.saturating_duration_since(measure.began()).saturating_sub(store + instantiate),
            body: read_at.saturating_duration_since(head_at),
        },
        teardown,
        cpu: usage.cpu,
        memory_peak_bytes: usage.memory_peak_bytes,
        status: head.status.as_u16(),
        body_bytes,
    })
}
