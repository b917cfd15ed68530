//! A client: one connection, requests and answers.

use super::PATIENCE;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio::time::timeout;

type AnyError = Box<dyn Error + Send + Sync>;

/// A request under construction.
pub(crate) struct Request(http::Request<BoxBody<Bytes, Infallible>>);

impl Request {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        let request = http::Request::builder().method(method).uri(path).body(Empty::new().boxed()).unwrap();
        Self(request)
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self::of(Method::POST, path, body)
    }

    pub(crate) fn of(method: Method, path: &str, body: impl Into<Bytes>) -> Self {
        Self::new(method, path).body(Full::new(body.into()).boxed())
    }

    pub(crate) fn body(mut self, body: BoxBody<Bytes, Infallible>) -> Self {
        *self.0.body_mut() = body;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.0.headers_mut().append(name, value.parse().unwrap());
        self
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn request_id(&self) -> &str {
        self.header("x-request-id")
    }

    #[track_caller]
    pub(crate) fn assert_ok(&self, body: &str) {
        assert_eq!((self.status.as_u16(), self.text().as_str()), (200, body));
    }

    /// A problem with this status and code, and everything else that a problem has.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], self.request_id());
        assert_eq!(self.request_id().len(), 32);
        // A problem names the function, where the request reached one.
        let unrouted = ["no_route", "no_method", "bad_request", "not_implemented", "target_too_long"].contains(&code);
        assert_eq!(problem["function"].is_null(), unrouted, "{problem}");
    }
}

/// One connection of HTTP/1.1.
pub(crate) struct Connection {
    sender: http1::SendRequest<BoxBody<Bytes, Infallible>>,
    /// Owns the socket: aborted, the host sees the client go.
    driver: tokio::task::JoinHandle<()>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, AnyError> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::task::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender, driver })
    }

    /// Sends a request and reads its answer to the end.
    pub(crate) async fn send(&mut self, request: Request) -> Result<Answer, AnyError> {
        timeout(PATIENCE, async {
            let response = self.begin(request).await?;
            read(response).await
        })
        .await?
    }

    /// Sends a request and reads the head of its answer.
    pub(crate) async fn begin(&mut self, request: Request) -> Result<http::Response<Incoming>, AnyError> {
        let mut request = request.0;
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", "127.0.0.1".parse().unwrap());
        }
        self.sender.ready().await?;
        Ok(timeout(PATIENCE, self.sender.send_request(request)).await??)
    }

    /// Goes away, and is gone: the socket is closed when this returns.
    pub(crate) async fn leave(mut self) {
        self.driver.abort();
        let _ = (&mut self.driver).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn read(response: http::Response<Incoming>) -> Result<Answer, AnyError> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    Ok(Answer { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
}

/// A body of these frames, without a length that is known beforehand; each is sent when the connection asks for it.
pub(crate) fn body_of(
    frames: impl Iterator<Item = Frame<Bytes>> + Send + Sync + Unpin + 'static,
) -> BoxBody<Bytes, Infallible> {
    struct Frames<I>(I);
    impl<I: Iterator<Item = Frame<Bytes>> + Unpin> Body for Frames<I> {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(Ok))
        }
    }
    Frames(frames).boxed()
}

/// A body of what comes through a channel.
pub(crate) fn body_of_channel(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> BoxBody<Bytes, Infallible> {
    struct Channel(tokio::sync::mpsc::Receiver<Bytes>);
    impl Body for Channel {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
        }
    }
    Channel(receiver).boxed()
}
