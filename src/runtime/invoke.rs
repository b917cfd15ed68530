//! One request, one sandbox: make it, call the guest, stream its answer.
//!
//! The guest is driven by whoever waits for it, never by a task of its own: [`invoke`] polls it until its response head
//! is there, and then [`GuestBody`] does as it is read. Dropping either drops the sandbox, and the guest with it.

use super::capability::cgi::{self, Pipe, UploadReader};
use super::capability::stdio::{GuestLog, Stdin, Stdio, Stdout, Stream};
use super::code::Code;
use super::function::Function;
use super::gate::Permit;
use super::guest::{Guest, GuestFuture, InvokeError};
use super::meter::{Meter, Usage};
use super::response::GuestBody;
use super::sandbox::Sandbox;
use super::upload::Upload;
use crate::names::RequestId;
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

/// How many turns, of a millisecond each, a guest that computes behind its head is waited for before that is sent.
const HEAD_TURNS_MAX: u32 = 100;

/// What the host says of a request beside the request itself.
pub struct Call {
    /// The host's name of it.
    pub request_id: RequestId,
    /// Host and port that the client asked for.
    pub authority: Authority,
    /// The client's address.
    pub client: IpAddr,
    /// How many bytes of the path belong to the route, before its first parameter.
    pub route_prefix_bytes: usize,
    /// The trace that calls out belong to, unless the guest says otherwise.
    pub traceparent: Option<HeaderValue>,
    /// Told when the response is over its time and its client does not even read that.
    pub stalled: Arc<Notify>,
}

/// What a request uses, from its permit on. Cheap to clone, and live.
#[derive(Clone)]
pub struct Measure(Arc<Meter>);

impl Measure {
    /// Begins to measure a request to `function`. Its timeout runs from here.
    pub fn begin(function: &Function) -> Self {
        Self(Arc::new(Meter::new(&function.limits, function.body_timeout)))
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
    let code = function.code().await.map_err(|error| InvokeError::Host(error.to_string()))?;
    // Nothing, but on the first call of a function whose code is not kept mapped.
    let loading = meter.started().elapsed();
    meter.set_loading(loading);
    let (parts, body) = request.into_parts();
    let upload = Upload::new(body, function.limits.request_body_bytes, Arc::clone(meter)).boxed_unsync();
    let log = GuestLog::new(function.app.clone(), function.name.clone(), call.request_id);
    let calls_max = function.limits.outbound_requests;
    let outbound = function.outbound.hooks(call.request_id, calls_max, call.traceparent.clone());
    let (future, head): (GuestFuture, HeadSource) = match &*code {
        Code::Http02(pre) => {
            let mut sandbox = Sandbox::new(function, code.engine(), permit, meter, Stdio::logged(log), outbound)
                .map_err(no_sandbox)?;
            let slot = HeadSlot::default();
            let request = Request::from_parts(parts, upload);
            let (pre, head, meter) = (Arc::clone(pre), slot.clone(), Arc::clone(meter));
            let run = async move {
                let result = run_http02(&mut sandbox, &pre, request, head, meter).await;
                (sandbox, result)
            };
            (Box::pin(run), HeadSource::Slot(slot))
        }
        Code::Http03(pre) => {
            let mut sandbox = Sandbox::new(function, code.engine(), permit, meter, Stdio::logged(log), outbound)
                .map_err(no_sandbox)?;
            let slot = HeadSlot::default();
            let request = Request::from_parts(parts, upload);
            let (pre, head, meter) = (Arc::clone(pre), slot.clone(), Arc::clone(meter));
            let run = async move {
                let result = run_http03(&mut sandbox, &pre, request, head, meter).await;
                (sandbox, result)
            };
            (Box::pin(run), HeadSource::Slot(slot))
        }
        Code::Command(pre) => {
            let env = cgi::environment(&parts, &call);
            if !cgi::fits(&env) {
                return Err(InvokeError::HeadersTooLarge);
            }
            let pipe = Pipe::default();
            let stdio = Stdio {
                stdin: Stdin::Upload(UploadReader::new(upload)),
                stdout: Stdout::Response(pipe.clone()),
                stderr: Stdout::Log(log, Stream::Stderr),
                env,
                args: vec![function.name.to_string()],
            };
            let mut sandbox =
                Sandbox::new(function, code.engine(), permit, meter, stdio, outbound).map_err(no_sandbox)?;
            let (pre, stdout, meter) = (Arc::clone(pre), pipe.clone(), Arc::clone(meter));
            let run = async move {
                let result = run_command(&mut sandbox, &pre, stdout, meter).await;
                (sandbox, result)
            };
            (Box::pin(run), HeadSource::Pipe(pipe))
        }
    };
    meter.set_store(meter.started().elapsed().saturating_sub(loading));
    meter.add_instantiate(loading);
    let mut guest = Guest::new(future, Arc::clone(meter));
    let mut answering = pin!(async {
        let mut turns = 0;
        let answer = poll_fn(|cx| poll_head(&mut guest, &head, &mut turns, cx)).await?;
        let (head, body) = answer.response.into_parts();
        let body = GuestBody::new(body, answer.body_read, guest, call.stalled, &function.streams).await?;
        Ok(Response::from_parts(head, body))
    });
    // The head and what is there of the body are one stretch of work.
    poll_fn(|cx| meter.count_cpu(|| answering.as_mut().poll(cx))).await
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn no_sandbox(error: wasmtime::Error) -> InvokeError {
    InvokeError::Host(format!("no sandbox could be made: {error:#}"))
}

fn poll_head(
    guest: &mut Guest,
    head: &HeadSource,
    turns: &mut u32,
    cx: &mut Context<'_>,
) -> Poll<Result<Answer, InvokeError>> {
    let polled = guest.poll(cx);
    // While nothing was sent, a guest that fails behind its answer has failed.
    if let Poll::Ready(Err(error)) = polled {
        return Poll::Ready(Err(error));
    }
    // It may have taken the end of its upload for the whole of it.
    if guest.meter.upload.too_large() {
        return Poll::Ready(Err(InvokeError::BodyTooLarge));
    }
    // Whatever the guest makes of such an error, the fault is the client's.
    if guest.meter.upload.malformed() {
        return Poll::Ready(Err(InvokeError::UploadMalformed));
    }
    // Nobody is there for the answer, and a guest that is lost without its upload has not failed.
    if guest.meter.upload.broke_off() {
        return Poll::Ready(Err(InvokeError::UploadBroken));
    }
    match head.take(guest, turns) {
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

/// A guest's answer, and whom to tell that its body was read: a 0.3 guest's store is what moves the body along, so it
/// must not end before.
struct Answer {
    response: Response<WasiBody>,
    body_read: Option<oneshot::Sender<()>>,
}

type HeadSlot = Arc<Mutex<Option<Result<Answer, InvokeError>>>>;

fn put(slot: &HeadSlot, head: Result<Answer, InvokeError>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
}

impl HeadSource {
    /// The head, if it is there and the guest waits or has ended. One that computes may yet end with an error, which is
    /// better told while it can be; a handler is held up for some turns, a command for as long as it computes.
    fn take(&self, guest: &Guest, turns: &mut u32) -> Option<Result<Answer, InvokeError>> {
        let computes = guest.is_running() && guest.meter.take_turn();
        *turns += u32::from(computes);
        match self {
            Self::Slot(_) if computes && *turns < HEAD_TURNS_MAX => None,
            Self::Slot(slot) => slot.lock().unwrap_or_else(PoisonError::into_inner).take(),
            Self::Pipe(_) if computes => None,
            Self::Pipe(pipe) => Some(match pipe.take_head()? {
                Ok(response) => Ok(Answer { response, body_read: None }),
                Err(error) => Err(InvokeError::NoResponse(format!(": {error}"))),
            }),
        }
    }
}

async fn run_http02(
    sandbox: &mut Sandbox,
    pre: &wasmtime_wasi_http::p2::bindings::ProxyPre<super::sandbox::State>,
    request: Request<WasiBody>,
    head: HeadSlot,
    meter: Arc<Meter>,
) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
    let began = Instant::now();
    let proxy = pre.instantiate_async(&mut sandbox.store).await?;
    meter.add_instantiate(began.elapsed());
    let mut view = sandbox.store.data_mut().http();
    let is_https = request.uri().scheme() == Some(&http::uri::Scheme::HTTPS);
    let request = view.new_incoming_request(if is_https { Scheme::Https } else { Scheme::Http }, request)?;
    let answer = view.new_response_outparam_from_callback(move |answer| {
        put(
            &head,
            match answer {
                Ok(response) => Ok(Answer { response, body_read: None }),
                Err(code) => Err(InvokeError::of_guest(&format!("{code:?}"))),
            },
        );
    })?;
    proxy.wasi_http_incoming_handler().call_handle(&mut sandbox.store, request, answer).await
}

async fn run_http03(
    sandbox: &mut Sandbox,
    pre: &wasmtime_wasi_http::p3::bindings::ServicePre<super::sandbox::State>,
    request: Request<WasiBody>,
    head: HeadSlot,
    meter: Arc<Meter>,
) -> wasmtime::Result<()> {
    let began = Instant::now();
    let service = pre.instantiate_async(&mut sandbox.store).await?;
    meter.add_instantiate(began.elapsed());
    let hooks = sandbox.store.data_mut().http().hooks;
    let (request, upload_result) = wasmtime_wasi_http::p3::Request::from_http(hooks, request);
    let called = sandbox.store.run_concurrent(async |accessor| -> wasmtime::Result<()> {
        match service.handle(accessor, request).await? {
            Ok(response) => {
                let response = accessor.with(|store| response.into_http(store, upload_result))?;
                let (body_read, read) = oneshot::channel();
                put(&head, Ok(Answer { response, body_read: Some(body_read) }));
                // Told, or dropped: either way nobody reads any more.
                let _ = read.await;
            }
            Err(code) => put(&head, Err(InvokeError::of_guest(&format!("{code:?}")))),
        }
        // The guest may be at work that its client does not wait for.
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        Ok(())
    });
    called.await?
}

async fn run_command(
    sandbox: &mut Sandbox,
    pre: &wasmtime_wasi::p2::bindings::CommandPre<super::sandbox::State>,
    pipe: Pipe,
    meter: Arc<Meter>,
) -> wasmtime::Result<()> {
    let began = Instant::now();
    let command = pre.instantiate_async(&mut sandbox.store).await?;
    meter.add_instantiate(began.elapsed());
    match command.wasi_cli_run().call_run(&mut sandbox.store).await {
        Ok(Ok(())) => {}
        Ok(Err(())) => return Err(I32Exit(1).into()),
        // A program's own way to end well.
        Err(error) if error.downcast_ref::<I32Exit>().is_some_and(|exit| exit.0 == 0) => {}
        Err(error) => return Err(error),
    }
    // Only now: what a command that failed has written is cut off, and does not end.
    pipe.end();
    Ok(())
}
