//! `static`: files of a folder (by the crate `tower-http`: ranges, `ETag` and `Last-Modified`, conditional requests). What there is
//! no file for goes on to the function.
//!
//! **Invariant:** nothing outside the folder is opened, whatever symbolic links are in it, also while it changes: the kernel
//! resolves each path beneath it (`openat2(2)`). What begins with a dot is not there.

use super::Answer;
use crate::manifest::middleware::StaticSpec;
use crate::receipt::Outcome;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::future::{Ready, ready};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, DefaultServeDirFallback, File};

/// A file on its way out.
pub type FileBody = UnsyncBoxBody<Bytes, io::Error>;

/// Files of a folder.
pub struct StaticFiles {
    index: String,
    folder: PathBuf,
    serve: ServeDir<DefaultServeDirFallback, Beneath>,
}

impl StaticFiles {
    /// As functions.toml has it.
    pub fn new(spec: StaticSpec) -> Self {
        let serve = ServeDir::with_backend("", Beneath(spec.from.clone()));
        Self {
            index: spec.index,
            folder: spec.from,
            serve: serve.append_index_html_on_directories(false).redirect_to_trailing_slash(false),
        }
    }

    /// The file that `path` is of, behind the part that is the route's; nothing, if there is none.
    pub(super) async fn find(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        route_prefix_bytes: usize,
    ) -> Option<Answer> {
        if method != Method::GET && method != Method::HEAD {
            return None;
        }
        let rest = path.get(route_prefix_bytes..).unwrap_or_default().trim_start_matches('/');
        let index = if rest.is_empty() || rest.ends_with('/') { self.index.as_str() } else { "" };
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = format!("/{rest}{index}").parse().ok()?;
        *request.headers_mut() = headers.clone();
        match self.serve.clone().try_call(request).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => None,
            Ok(response) => {
                let (head, body) = response.into_parts();
                let mut answer = Answer::new(Outcome::StaticFile);
                answer.status = Some(head.status);
                answer.headers = head.headers;
                answer.file = Some(body.boxed_unsync());
                Some(answer)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "a file cannot be read");
                Some(Answer::new(Outcome::Host))
            }
        }
    }
}

/// A folder, and nothing beyond it.
#[derive(Debug, Clone)]
struct Beneath(PathBuf);

impl Beneath {
    fn open_now(&self, path: &Path) -> io::Result<std::fs::File> {
        let hidden = |part: Component<'_>| match part {
            Component::Normal(name) => name.as_encoded_bytes().starts_with(b"."),
            Component::CurDir => false,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => true,
        };
        if path.components().any(hidden) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // Each time, for a deploy may put another folder in the place of this one.
        let folder = openat(CWD, &self.0, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // A pipe would have its reader wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(&folder, path, flags, Mode::empty(), resolve).map_err(|error| match error {
            // Out of the folder; around in a circle; through a file; too long; not this user's to read.
            rustix::io::Errno::XDEV
            | rustix::io::Errno::LOOP
            | rustix::io::Errno::NOTDIR
            | rustix::io::Errno::NAMETOOLONG
            | rustix::io::Errno::ACCESS => io::ErrorKind::NotFound.into(),
            error => io::Error::from(error),
        })?;
        let file = std::fs::File::from(file);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    async fn open_aside(self, path: PathBuf) -> io::Result<std::fs::File> {
        tokio::task::spawn_blocking(move || self.open_now(&path)).await.map_err(io::Error::other)?
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Backend for Beneath {
    type File = Opened;
    type Metadata = std::fs::Metadata;
    type OpenFuture = Boxed<Opened>;
    type MetadataFuture = Boxed<std::fs::Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let folder = self.clone();
        Box::pin(async move {
            let file = folder.open_aside(path).await?;
            Ok(Opened { metadata: file.metadata()?, file: file.into() })
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let folder = self.clone();
        Box::pin(async move { folder.open_aside(path).await?.metadata() })
    }
}

/// A file, and what it was when it was opened.
struct Opened {
    file: tokio::fs::File,
    metadata: std::fs::Metadata,
}

impl File for Opened {
    type Metadata = std::fs::Metadata;
    type MetadataFuture<'a> = Ready<io::Result<std::fs::Metadata>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.metadata.clone()))
    }
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buffer)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}
