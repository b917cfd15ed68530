//! What one request cost, and how it ended.
//!
//! Plain values that every floor above speaks: the phases, the outcome with its stable code, the kind of a component.

pub mod buckets;
mod line;
pub mod totals;

use crate::names::{Name, RequestId};
use crate::trace::TraceContext;
use std::time::{Duration, SystemTime};

/// What a component is, found from its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It exports `wasi:http/incoming-handler@0.2.x`.
    Http02,
    /// It exports `wasi:http/handler@0.3.x`.
    Http03,
    /// It exports `wasi:cli/run@0.2.x`, or was a core module for `wasm32-wasip1`; called by CGI (RFC 3875).
    Command,
}

impl Kind {
    /// The name used in logs, tables and file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http02 => "http-0.2",
            Self::Http03 => "http-0.3",
            Self::Command => "command",
        }
    }

    /// From such a name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Http02, Self::Http03, Self::Command].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How a request ended. The names are stable: clients, logs and tables read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest answered, and its body was sent whole.
    Ok,
    /// Middleware led somewhere else, or `redirect-http` to HTTPS.
    Redirected,
    /// Middleware answered with a file of a folder, or with what there is to say of it.
    StaticFile,
    /// Middleware told a browser what another site may ask (CORS).
    Preflight,
    /// Middleware does not know who asks.
    Unauthorized,
    /// Middleware has let enough requests pass.
    RateLimited,
    /// No route has this host and path.
    NoRoute,
    /// A route has this path, with other methods.
    NoMethod,
    /// The queue was full, or no permit came free in time.
    Busy,
    /// The client's request was no request: a bad Host, for instance, or an upload in broken chunks.
    BadRequest,
    /// The request asked for what the host does for nobody: TRACE, or a transfer coding besides `chunked`.
    NotImplemented,
    /// The request's target is longer than the host reads.
    TargetTooLong,
    /// The upload was larger than `request-body`.
    BodyTooLarge,
    /// The request's headers are more than its function can be given.
    HeadersTooLarge,
    /// The client stopped sending in the middle of its upload.
    BodyTimeout,
    /// The guest trapped, panicked or exited before it was done.
    Trap,
    /// The guest returned, and no response was there.
    NoResponse,
    /// The guest answered with an error code of `wasi:http` in place of a response.
    GuestError,
    /// Over `timeout`.
    Timeout,
    /// Over `cpu`.
    CpuLimit,
    /// Over `memory`, and the guest did not survive it.
    MemoryLimit,
    /// The client went away first.
    ClientGone,
    /// The host stopped, and its grace was over.
    Shutdown,
    /// The host's own failure.
    Host,
    /// The app could not be built, and a person asked for it (the live loop of `up` alone).
    NotBuilt,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Ok,
        Self::NoRoute,
        Self::NoMethod,
        Self::Busy,
        Self::BadRequest,
        Self::BodyTooLarge,
        Self::HeadersTooLarge,
        Self::BodyTimeout,
        Self::Trap,
        Self::NoResponse,
        Self::GuestError,
        Self::Timeout,
        Self::CpuLimit,
        Self::MemoryLimit,
        Self::ClientGone,
        Self::Shutdown,
        Self::Host,
        Self::NotImplemented,
        Self::TargetTooLong,
        Self::Redirected,
        Self::StaticFile,
        Self::Preflight,
        Self::Unauthorized,
        Self::RateLimited,
        Self::NotBuilt,
    ];

    /// Whether the function failed, or the host. What a client did wrong is no failure of theirs, and neither is a client that
    /// goes away, nor the host's own end.
    fn is_failure(self) -> bool {
        match self {
            Self::Trap
            | Self::NoResponse
            | Self::GuestError
            | Self::Timeout
            | Self::CpuLimit
            | Self::MemoryLimit
            | Self::Host => true,
            Self::Ok
            | Self::Redirected
            | Self::StaticFile
            | Self::Preflight
            | Self::Unauthorized
            | Self::RateLimited
            | Self::NoRoute
            | Self::NoMethod
            | Self::Busy
            | Self::BadRequest
            | Self::NotImplemented
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::HeadersTooLarge
            | Self::BodyTimeout
            | Self::ClientGone
            | Self::Shutdown
            | Self::NotBuilt => false,
        }
    }

    /// The stable code.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Redirected => "redirected",
            Self::StaticFile => "static_file",
            Self::Preflight => "preflight",
            Self::Unauthorized => "unauthorized",
            Self::RateLimited => "rate_limited",
            Self::NoRoute => "no_route",
            Self::NoMethod => "no_method",
            Self::Busy => "busy",
            Self::BadRequest => "bad_request",
            Self::NotImplemented => "not_implemented",
            Self::TargetTooLong => "target_too_long",
            Self::BodyTooLarge => "body_too_large",
            Self::HeadersTooLarge => "headers_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Trap => "trap",
            Self::NoResponse => "no_response",
            Self::GuestError => "guest_error",
            Self::Timeout => "timeout",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::ClientGone => "client_gone",
            Self::Shutdown => "shutdown",
            Self::Host => "host",
            Self::NotBuilt => "not_built",
        }
    }
}

/// The stretches of a request's time, in their order. Those that were not reached are zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the request's head to the permit.
    pub queue: Duration,
    /// Making the store: WASI context, limiter, meter.
    pub store: Duration,
    /// Instantiating the component in it.
    pub instantiate: Duration,
    /// The guest, until it has given the response head.
    pub handler: Duration,
    /// From the head to the end of the body, or of the guest if it works on after that.
    pub body: Duration,
}

impl Phases {
    /// What it costs to have a fresh sandbox ready. Every request pays it.
    pub fn cold_start(&self) -> Duration {
        self.store + self.instantiate
    }

    /// From the permit to the end.
    pub fn since_permit(&self) -> Duration {
        self.cold_start() + self.handler + self.body
    }

    /// With their names, in their order.
    pub fn named(&self) -> [(&'static str, Duration); 5] {
        [
            ("queue", self.queue),
            ("store", self.store),
            ("instantiate", self.instantiate),
            ("handler", self.handler),
            ("body", self.body),
        ]
    }
}

/// What one request cost.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The host's name of the request.
    pub request_id: RequestId,
    /// When it ended.
    pub ended: SystemTime,
    /// Its place in a trace, where traces are told.
    pub trace: Option<TraceContext>,
    /// The app whose function answered; none where no route was found.
    pub app: Option<Name>,
    /// The number of its release.
    pub release: Option<u64>,
    /// The function that answered; none where no route was found.
    pub function: Option<Name>,
    /// The kind of its component.
    pub kind: Option<Kind>,
    /// The method of the request.
    pub method: http::Method,
    /// How it ended.
    pub outcome: Outcome,
    /// The status that was sent; 0 where the client was gone before it.
    pub status: u16,
    /// Where the time went.
    pub phases: Phases,
    /// CPU time of the guest.
    pub cpu: Duration,
    /// The most bytes that the sandbox's memories and tables had together.
    pub memory_peak_bytes: u64,
    /// Bytes of the upload that the guest read.
    pub bytes_in: u64,
    /// Bytes of the response body that were handed to the connection.
    pub bytes_out: u64,
}

impl Receipt {
    /// Whether the request is an error, wherever errors are counted: its function failed, or its host, be it behind the head,
    /// or the status is 500 or above, whoever chose it.
    pub fn is_error(&self) -> bool {
        self.status >= 500 || self.outcome.is_failure()
    }

    /// Whether the request got as far as having a sandbox.
    pub fn had_sandbox(&self) -> bool {
        !self.phases.cold_start().is_zero()
    }
}

#[cfg(test)]
impl Receipt {
    /// One of a request that went well.
    pub(crate) fn sample() -> Self {
        Self {
            request_id: RequestId::new(),
            ended: SystemTime::now(),
            trace: None,
            app: Name::new("demo").ok(),
            release: Some(7),
            function: Name::new("hello").ok(),
            kind: Some(Kind::Http02),
            method: http::Method::GET,
            outcome: Outcome::Ok,
            status: 200,
            phases: Phases { store: Duration::from_nanos(1500), ..Phases::default() },
            cpu: Duration::from_micros(20),
            memory_peak_bytes: 1 << 20,
            bytes_in: 0,
            bytes_out: 14,
        }
    }
}
