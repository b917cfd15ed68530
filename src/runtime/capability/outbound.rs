//! `wasi:http` calls out: to whom a function was granted, over connections that are kept for its next request.
//!
//! Owns the connector, which holds every address against the grants *after* the name was resolved, and the mapping of
//! what can go wrong to the errors a guest knows. **Invariant:** connections are pooled for each function by itself,
//! so that none is ever used on another function's grant.

use super::connections::{Connections, Counted};
use crate::grants::{OutboundGrants, Scheme};
use crate::names::{Name, RequestId};
use crate::runtime::text::printable;
use crate::trace::TRACEPARENT;
use crate::trickle::{LeftOut, Trickle};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Sleep, timeout};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// How long a connection may take, if the guest asks for nothing shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept, and how many to one host.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
const IDLE_PER_HOST_MAX: usize = 32;

/// The most bytes that one write of a guest brings into the host.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// How long a call that is over takes in what its guest still uploads, and throws it away.
const LINGER_TIME: Duration = Duration::from_millis(100);
/// The most bytes of a host's name that are logged (RFC 1035, 2.3.4).
const SHOWN_HOST_BYTES_MAX: usize = 255;

type PooledClient = Client<HttpsConnector<GrantedConnector>, WasiBody>;

/// The certificates that are trusted: Mozilla's, compiled in. Read once for the whole host.
static TLS: LazyLock<rustls::ClientConfig> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // The builder refuses versions that a provider lacks, and ring has them all.
    #[expect(clippy::expect_used, reason = "a constant configuration, tried by every test that calls out")]
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has TLS 1.2 and 1.3");
    builder.with_webpki_roots().with_no_client_auth()
});

/// What a function calls out with. Its connections are made at the first call.
pub(in crate::runtime) struct Outbound(Arc<Caller>);

struct Caller {
    app: Name,
    function: Name,
    grants: Arc<OutboundGrants>,
    connections: Arc<Connections>,
    client: OnceLock<PooledClient>,
    /// The log lines of calls that were not granted.
    denials: Trickle,
}

impl Outbound {
    pub(in crate::runtime) fn new(
        app: Name,
        function: Name,
        grants: OutboundGrants,
        connections: Arc<Connections>,
    ) -> Self {
        let (grants, client) = (Arc::new(grants), OnceLock::new());
        Self(Arc::new(Caller { app, function, grants, connections, client, denials: Trickle::default() }))
    }

    /// Whom the function may call.
    pub(in crate::runtime) fn grants(&self) -> &Arc<OutboundGrants> {
        &self.0.grants
    }

    /// One request's use of it: at most `requests_max` calls, which belong to the trace of `traceparent` unless the guest
    /// says otherwise.
    pub(in crate::runtime) fn hooks(
        &self,
        request_id: RequestId,
        requests_max: u32,
        traceparent: Option<HeaderValue>,
    ) -> OutboundHooks {
        OutboundHooks { caller: Arc::clone(&self.0), request_id, left: requests_max, traceparent }
    }
}

impl Caller {
    fn new_client(&self) -> PooledClient {
        let (grants, connections) = (Arc::clone(&self.grants), Arc::clone(&self.connections));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(TLS.clone())
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(GrantedConnector { grants, connections });
        Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .build(connector)
    }

    /// Logs that a call to `uri` was not granted: the guest may keep it to itself.
    fn log_denial(&self, request_id: RequestId, uri: &Uri) {
        let Some(LeftOut(left_out)) = self.denials.admit() else { return };
        let (app, function) = (self.app.as_str(), self.function.as_str());
        let scheme = uri.scheme_str().unwrap_or_default();
        let host = printable(uri.host().unwrap_or_default().as_bytes(), SHOWN_HOST_BYTES_MAX);
        let port = uri.port_u16();
        tracing::info!(%request_id, app, function, scheme, host, port, left_out, "a call out was not granted");
    }
}

/// What stands between one sandbox and the network.
pub(in crate::runtime) struct OutboundHooks {
    caller: Arc<Caller>,
    request_id: RequestId,
    left: u32,
    traceparent: Option<HeaderValue>,
}

type Sent = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>), Error>;

impl WasiHttpHooks for OutboundHooks {
    /// The client writes Host itself, as HTTP/1.1 or HTTP/2 want it.
    fn set_host_header(&mut self) -> bool {
        false
    }

    /// A body that nobody reads holds two such chunks in the host, and a guest may have many.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        // Tells of failures in reading the response: there is nothing here that would want to know.
        _response_result: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let admitted = self.admit(&request);
        let mut request = request.map(|body| Lingering(Some(body)).boxed_unsync());
        if let Some(traceparent) = &self.traceparent {
            request.headers_mut().entry(TRACEPARENT).or_insert_with(|| traceparent.clone());
        }
        if let Err(error) = admitted {
            return Box::new(async { Err(error) });
        }
        self.left -= 1;
        let client = self.caller.client.get_or_init(|| self.caller.new_client()).clone();
        let (caller, request_id, uri) = (Arc::clone(&self.caller), self.request_id, request.uri().clone());
        Box::new(async move {
            let sent = send(client, request, options.unwrap_or_default()).await;
            // What its name leads to was not.
            if matches!(sent, Err(Error::HttpRequestDenied)) {
                caller.log_denial(request_id, &uri);
            }
            sent
        })
    }
}

impl OutboundHooks {
    fn admit(&self, request: &Request<WasiBody>) -> Result<(), Error> {
        let (scheme, host, port) = target(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        if !self.caller.grants.allow_host(scheme, host, port) {
            self.caller.log_denial(self.request_id, request.uri());
            return Err(Error::HttpRequestDenied);
        }
        if self.left == 0 {
            return Err(Error::ConnectionLimitReached);
        }
        Ok(())
    }
}

/// Whom a URI means: scheme, host, port. Nothing for one with user information, which no server should see.
fn target(uri: &Uri) -> Option<(Scheme, &str, u16)> {
    let scheme = match uri.scheme_str()? {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let authority = uri.authority()?;
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return None;
    }
    Some((scheme, authority.host(), authority.port_u16().or(scheme.default_port())?))
}

async fn send(client: PooledClient, request: Request<WasiBody>, options: RequestOptions) -> Sent {
    // The pool connects when it has to, so both bounds hold for the way to the first byte.
    let connect = options.connect_timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
    let exchange = client.request(request);
    let answered = match options.first_byte_timeout {
        Some(first_byte) => {
            timeout(connect.saturating_add(first_byte), exchange).await.map_err(|_| Error::ConnectionReadTimeout)?
        }
        None => exchange.await,
    };
    let response = answered.map_err(|error| explain(&error))?;
    let between_bytes = options.between_bytes_timeout;
    let response = response.map(|body| Answer { body, between_bytes, sleep: None }.boxed_unsync());
    Ok((response, Box::new(async { Ok(()) })))
}

/// A guest's upload to the other side. Guests write it to its end before they look at the answer, or beside that; one
/// whose upload is dropped under it hears of a broken stream, though there is an answer, or a better reason why there is
/// none. So what was dropped early is taken in for a moment more.
struct Lingering(Option<WasiBody>);

impl Body for Lingering {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let (Some(mut body), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else { return };
        // Bounded by its time, and at its end at once when the guest goes: then nobody is left who writes.
        runtime.spawn(timeout(LINGER_TIME, async move { while let Some(Ok(_)) = body.frame().await {} }));
    }
}

/// What went wrong, in the words of `wasi:http`: the innermost cause that has one.
fn explain(error: &(dyn StdError + 'static)) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            return connect.as_wasi();
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Error::TlsCertificateError,
                _ => Error::TlsProtocolError,
            };
        }
        if let Some(own) = error.downcast_ref::<Error>() {
            return match own {
                // The guest's own upload to the other side failed; how is in the error it was given.
                Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
                _ => Error::HttpProtocolError,
            };
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // rustls comes wrapped in one.
            if let Some(inner) = io.get_ref() {
                cause = Some(inner);
                continue;
            }
            return match io.kind() {
                io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                _ => Error::ConnectionTerminated,
            };
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && hyper.is_incomplete_message()
        {
            return Error::HttpResponseIncomplete;
        }
        cause = error.source();
    }
    Error::HttpProtocolError
}

/// Connects to granted addresses alone.
#[derive(Clone)]
struct GrantedConnector {
    grants: Arc<OutboundGrants>,
    connections: Arc<Connections>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the address is not granted")]
    Denied,
    #[error("the function has as many connections as it may")]
    TooMany,
    #[error("the URI names no host")]
    NoHost,
    #[error("the name does not resolve: {0}")]
    Dns(io::Error),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("no connection in time")]
    TimedOut,
}

impl ConnectError {
    fn as_wasi(&self) -> Error {
        match self {
            Self::Denied => Error::HttpRequestDenied,
            Self::TooMany => Error::ConnectionLimitReached,
            Self::NoHost => Error::HttpRequestUriInvalid,
            Self::Dns(error) => Error::DnsError { rcode: Some(error.kind().to_string()), info_code: None },
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
            Self::Connect(_) => Error::DestinationUnavailable,
            Self::TimedOut => Error::ConnectionTimeout,
        }
    }
}

impl tower_service::Service<Uri> for GrantedConnector {
    type Response = Counted;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (grants, connections) = (Arc::clone(&self.grants), Arc::clone(&self.connections));
        Box::pin(async move {
            let (scheme, host, port) = target(&uri).ok_or(ConnectError::NoHost)?;
            let held = connections.one().ok_or(ConnectError::TooMany)?;
            let connecting = timeout(CONNECT_TIMEOUT, connect(&grants, scheme, host, port));
            let stream = connecting.await.map_err(|_| ConnectError::TimedOut)??;
            Ok(Counted::new(stream, held))
        })
    }
}

async fn connect(grants: &OutboundGrants, scheme: Scheme, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let bare_host = host.trim_start_matches('[').trim_end_matches(']');
    let resolved: Vec<SocketAddr> =
        tokio::net::lookup_host((bare_host, port)).await.map_err(ConnectError::Dns)?.collect();
    // Held against the grants here, after resolving and on the very addresses that are connected to: a name that
    // changes its mind between two look-ups gains nothing.
    let granted = resolved.iter().filter(|address| grants.allow_address(scheme, host, address.ip(), port));
    let mut failure = ConnectError::Denied;
    for address in granted {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Small requests must not wait for the acknowledgement of the one before (Nagle).
                stream.set_nodelay(true).map_err(ConnectError::Connect)?;
                return Ok(stream);
            }
            Err(error) => failure = ConnectError::Connect(error),
        }
    }
    Err(failure)
}

/// A response's body, with the guest's bound on the time between two reads.
struct Answer {
    body: Incoming,
    between_bytes: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.sleep = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| explain(&error))));
        }
        let Some(limit) = self.between_bytes else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
