//! One request, one sandbox: make it, call the guest, stream its answer.
//!
//! The guest is driven by whoever waits for it, never by a task of its own: [`invoke`] polls it until its response head
//! is there, and then [`GuestBody`] does as it is read. Dropping either drops the sandbox, and the guest with it.
//!
//! **Invariant:** a body that the guest did not finish never ends as if it had: it ends in an error.

use super::capability::cgi::{self, Pipe, UploadReader};
use super::capability::stdio::{GuestLog, Stdin, Stdio, Stdout, Stream};
use super::function::{Code, Function};
use super::gate::Permit;
use super::meter::{Meter, Stop, Usage};
use super::sandbox::Sandbox;
use super::upload::Upload;
use crate::names::RequestId;
use crate::receipt::Outcome;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

/// What the host says of a request beside the request itself.
pub struct Call {
    /// The host's name of it.
    pub request_id: RequestId,
    /// Host and port that the client asked for.
    pub authority: String,
    /// Whether it came over TLS.
    pub https: bool,
    /// The client's address, without the port.
    pub client_address: String,
    /// How many bytes of the path belong to the route, before its first parameter.
    pub route_prefix_bytes: usize,
}

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
            Self::Host(_) => Outcome::Host,
        }
    }
}

/// What a request uses, from its permit on. Cheap to clone, and live.
#[derive(Clone)]
pub struct Measure(Arc<Meter>);

impl Measure {
    /// Begins to measure a request to `function`. Its timeout runs from here.
    pub fn begin(function: &Function) -> Self {
        Self(Arc::new(Meter::new(&function.limits)))
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.0.started()
    }

    /// Time that making the store took.
    pub fn store(&self) -> Duration {
        self.0.store()
    }

    /// Time that instantiating took.
    pub fn instantiate(&self) -> Duration {
        self.0.instantiate()
    }

    /// What the guest has used by now.
    pub fn usage(&self) -> Usage {
        self.0.usage()
    }
}

/// Runs `function` on `request` in a fresh sandbox, until the response head is there.
pub async fn invoke<B>(
    function: &Function,
    permit: Permit,
    measure: &Measure,
    request: Request<B>,
    call: Call,
) -> Result<Response<GuestBody>, InvokeError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let meter = &measure.0;
    let (parts, body) = request.into_parts();
    let upload = Upload::new(body, function.limits.request_body_bytes, Arc::clone(meter)).boxed_unsync();
    let log = GuestLog::new(function.name.clone(), call.request_id);
    let (future, head): (GuestFuture, HeadSource) = match &function.code {
        Code::Http02(pre) => {
            let sandbox = Sandbox::new(function, permit, meter, Stdio::logged(log));
            let slot = HeadSlot::default();
            let request = Request::from_parts(parts, upload);
            let run = run_http02(sandbox, pre.clone(), request, call.https, slot.clone(), Arc::clone(meter));
            (Box::pin(run), HeadSource::Slot(slot))
        }
        Code::Http03(pre) => {
            let sandbox = Sandbox::new(function, permit, meter, Stdio::logged(log));
            let slot = HeadSlot::default();
            let request = Request::from_parts(parts, upload);
            let run = run_http03(sandbox, pre.clone(), request, slot.clone(), Arc::clone(meter));
            (Box::pin(run), HeadSource::Slot(slot))
        }
        Code::Command(pre) => {
            let pipe = Pipe::default();
            let stdio = Stdio {
                stdin: Stdin::Upload(UploadReader::new(upload)),
                stdout: Stdout::Response(pipe.clone()),
                stderr: Stdout::Log(log, Stream::Stderr),
                env: cgi::environment(&parts, &call),
                args: vec![function.name.to_string()],
            };
            let sandbox = Sandbox::new(function, permit, meter, stdio);
            (Box::pin(run_command(sandbox, pre.clone(), Arc::clone(meter))), HeadSource::Pipe(pipe))
        }
    };
    meter.set_store(meter.started().elapsed());
    let mut guest = Guest { state: GuestState::Running(future), meter: Arc::clone(meter), sleep: None };
    let (head, body) = poll_fn(|cx| poll_head(&mut guest, &head, cx)).await?.into_parts();
    Ok(Response::from_parts(head, GuestBody::new(body, guest)?))
}

fn poll_head(
    guest: &mut Guest,
    head: &HeadSource,
    cx: &mut Context<'_>,
) -> Poll<Result<Response<WasiBody>, InvokeError>> {
    let polled = guest.poll(cx);
    // While nothing was sent, a guest that fails behind its answer has failed.
    if let Poll::Ready(Err(error)) = polled {
        return Poll::Ready(Err(error));
    }
    // It may have taken the end of its upload for the whole of it.
    if guest.meter.upload.too_large() {
        return Poll::Ready(Err(InvokeError::BodyTooLarge));
    }
    match head.take(guest, polled.is_ready()) {
        Some(head) => Poll::Ready(head),
        None if polled.is_ready() => Poll::Ready(Err(InvokeError::NoResponse(String::new()))),
        None => Poll::Pending,
    }
}

/// Where the response head comes from.
enum HeadSource {
    Slot(HeadSlot),
    Pipe(Pipe),
}

type HeadSlot = Arc<Mutex<Option<Result<Response<WasiBody>, InvokeError>>>>;

fn put(slot: &HeadSlot, head: Result<Response<WasiBody>, InvokeError>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
}

impl HeadSource {
    fn take(&self, guest: &Guest, guest_ended: bool) -> Option<Result<Response<WasiBody>, InvokeError>> {
        match self {
            Self::Slot(slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Self::Pipe(pipe) => {
                if guest_ended {
                    pipe.end();
                } else if guest.meter.take_turn() {
                    // It computes, and may yet end with an error. One that waits has said what it had to say.
                    return None;
                }
                let head = pipe.take_head()?;
                Some(head.map_err(|error| InvokeError::NoResponse(format!(": {error}"))))
            }
        }
    }
}

type GuestFuture = Pin<Box<dyn Future<Output = (Sandbox, wasmtime::Result<()>)> + Send>>;

/// Runs `body`, which is to instantiate and call, and hands the sandbox back with what became of it.
macro_rules! in_sandbox {
    ($sandbox:ident, $body:block) => {{
        let result: wasmtime::Result<()> = async $body.await;
        ($sandbox, result)
    }};
}

async fn run_http02(
    mut sandbox: Sandbox,
    pre: wasmtime_wasi_http::p2::bindings::ProxyPre<super::sandbox::State>,
    request: Request<WasiBody>,
    https: bool,
    head: HeadSlot,
    meter: Arc<Meter>,
) -> (Sandbox, wasmtime::Result<()>) {
    use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
    in_sandbox!(sandbox, {
        let began = Instant::now();
        let proxy = pre.instantiate_async(&mut sandbox.store).await?;
        meter.set_instantiate(began.elapsed());
        let scheme = if https { Scheme::Https } else { Scheme::Http };
        let mut view = sandbox.store.data_mut().http();
        let request = view.new_incoming_request(scheme, request)?;
        let answer = view.new_response_outparam_from_callback(move |answer| {
            put(&head, answer.map_err(|code| InvokeError::GuestError(format!("{code:?}"))));
        })?;
        proxy.wasi_http_incoming_handler().call_handle(&mut sandbox.store, request, answer).await
    })
}

async fn run_http03(
    mut sandbox: Sandbox,
    pre: wasmtime_wasi_http::p3::bindings::ServicePre<super::sandbox::State>,
    request: Request<WasiBody>,
    head: HeadSlot,
    meter: Arc<Meter>,
) -> (Sandbox, wasmtime::Result<()>) {
    in_sandbox!(sandbox, {
        let began = Instant::now();
        let service = pre.instantiate_async(&mut sandbox.store).await?;
        meter.set_instantiate(began.elapsed());
        let hooks = sandbox.store.data_mut().http().hooks;
        let (request, upload_result) = wasmtime_wasi_http::p3::Request::from_http(hooks, request);
        let called = sandbox.store.run_concurrent(async |accessor| -> wasmtime::Result<()> {
            match service.handle(accessor, request).await? {
                Ok(response) => {
                    let response = accessor.with(|store| response.into_http(store, upload_result))?;
                    put(&head, Ok(response));
                }
                Err(code) => put(&head, Err(InvokeError::GuestError(format!("{code:?}")))),
            }
            // The guest may still be writing its body, or be at work that its client does not wait for.
            poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        });
        called.await?
    })
}

async fn run_command(
    mut sandbox: Sandbox,
    pre: wasmtime_wasi::p2::bindings::CommandPre<super::sandbox::State>,
    meter: Arc<Meter>,
) -> (Sandbox, wasmtime::Result<()>) {
    in_sandbox!(sandbox, {
        let began = Instant::now();
        let command = pre.instantiate_async(&mut sandbox.store).await?;
        meter.set_instantiate(began.elapsed());
        match command.wasi_cli_run().call_run(&mut sandbox.store).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(())) => Err(I32Exit(1).into()),
            // A program's own way to end well.
            Err(error) if error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0) => Ok(()),
            Err(error) => Err(error),
        }
    })
}

/// A guest at work, held to its limits.
struct Guest {
    state: GuestState,
    meter: Arc<Meter>,
    /// Registered when the guest first waits, and not before: most never do.
    sleep: Option<Pin<Box<Sleep>>>,
}

enum GuestState {
    Running(GuestFuture),
    /// Done. The sandbox stays until its body was read: parts of the body may still be in it.
    Done(#[expect(dead_code, reason = "held to be dropped, later")] Sandbox),
    Gone,
}

impl Guest {
    /// Lets the guest work until it waits or ends. Ready again and again once it has ended well.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        let GuestState::Running(future) = &mut self.state else { return Poll::Ready(Ok(())) };
        match self.meter.count_cpu(|| future.as_mut().poll(cx)) {
            Poll::Ready((sandbox, Ok(()))) => {
                self.state = GuestState::Done(sandbox);
                Poll::Ready(Ok(()))
            }
            Poll::Ready((_sandbox, Err(error))) => {
                self.state = GuestState::Gone;
                Poll::Ready(Err(self.classify(&error)))
            }
            Poll::Pending => match self.check_waiting(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => {
                    self.state = GuestState::Gone;
                    Poll::Ready(Err(error))
                }
            },
        }
    }

    /// A guest that waits is not seen by the epochs, so its time is held here, outside the store.
    fn check_waiting(&mut self, cx: &mut Context<'_>) -> Result<(), InvokeError> {
        if self.meter.upload.too_large() {
            return Err(InvokeError::BodyTooLarge);
        }
        loop {
            let Some(left) = self.meter.time_left() else { return Ok(()) };
            if left.is_zero() {
                return Err(InvokeError::Timeout);
            }
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            // It was registered before the guest waited for its upload, and there is time left.
            self.sleep = None;
        }
    }

    fn classify(&self, error: &wasmtime::Error) -> InvokeError {
        let text = format!("{error:#}");
        if self.meter.upload.too_large() {
            return InvokeError::BodyTooLarge;
        }
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return match stop {
                Stop::CpuLimit => InvokeError::CpuLimit,
                Stop::Timeout => InvokeError::Timeout,
            };
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

/// A response body, which drives its guest as it is read.
pub struct GuestBody {
    body: WasiBody,
    guest: Guest,
    /// Frames that were there when the guest had ended already.
    ready: VecDeque<Frame<Bytes>>,
    /// No more will come than is in `ready`.
    ended: bool,
}

/// What a guest still does while nobody reads its body, or after it.
pub struct Tail(GuestBody);

impl Tail {
    /// Lets it finish, within its limits.
    pub async fn finish(mut self) -> Result<(), InvokeError> {
        let body = &mut self.0;
        while let Some(frame) = poll_fn(|cx| body.poll_next(cx)).await {
            frame?;
        }
        poll_fn(|cx| body.guest.poll(cx)).await
    }
}

impl GuestBody {
    /// The body of an answer. Of a guest that has ended, it takes what was left behind, so that the length of a small
    /// body is known before its head is sent, and so that one that broke off is an error while there can be one.
    /// Bounded by what the way from guest to host can hold.
    fn new(body: WasiBody, guest: Guest) -> Result<Self, InvokeError> {
        let mut body = Self { body, guest, ready: VecDeque::new(), ended: false };
        if matches!(body.guest.state, GuestState::Done(_)) {
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(frame) = body.poll_body(&mut cx) {
                if let Some(frame) = frame {
                    body.ready.push_back(frame?);
                } else {
                    body.ended = true;
                    break;
                }
            }
        }
        Ok(body)
    }

    /// Whether all of it was read.
    pub fn has_ended(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    /// What the guest still has to do, if anything. Whoever drops it stops the guest.
    pub fn into_tail(self) -> Option<Tail> {
        matches!(self.guest.state, GuestState::Running(_)).then_some(Tail(self))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        if let Some(frame) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        // What is there already goes out before the guest makes more.
        if let Poll::Ready(Some(frame)) = self.poll_body(cx) {
            return Poll::Ready(Some(frame));
        }
        let polled = self.guest.poll(cx);
        if let Poll::Ready(Err(error)) = polled {
            self.ended = true;
            return Poll::Ready(Some(Err(error)));
        }
        let mut frame = self.poll_body(cx);
        if polled.is_ready() && frame.is_pending() {
            // Nobody is left to write: what the sandbox still holds of the body is dropped with it, and that ends it.
            self.guest.state = GuestState::Gone;
            frame = self.poll_body(cx);
        }
        self.ended = matches!(frame, Poll::Ready(None));
        frame
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                // A guest that passes its upload on fails with it.
                let too_large = self.guest.meter.upload.too_large();
                if too_large { InvokeError::BodyTooLarge } else { InvokeError::GuestError(error.to_string()) }
            })
        }))
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = InvokeError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InvokeError>>> {
        self.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended {
            let left = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
            return SizeHint::with_exact(left);
        }
        self.body.size_hint()
    }
}
