//! A receiver of traces (OTLP over gRPC), of the published protos, that counts spans and throws them away: what exporting
//! costs the host is measured with something real on the other side, and whether all of them come.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Counter(Arc<Counts>);

#[derive(Default)]
struct Counts {
    spans: AtomicUsize,
    /// Those of them that are of whole requests.
    requests: AtomicUsize,
}

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        for scope in resources.iter().flat_map(|resource| &resource.scope_spans) {
            let requests = scope.spans.iter().filter(|span| span.kind() == SpanKind::Server);
            self.0.requests.fetch_add(requests.count(), Ordering::Relaxed);
            self.0.spans.fetch_add(scope.spans.len(), Ordering::Relaxed);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the address and the count there")]
fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let counter = Counter::default();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
        println!("listening on http://{}", incoming.local_addr()?);
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            terminate.recv().await;
        };
        let service = TraceServiceServer::new(counter.clone());
        Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, stop).await?;
        let Counts { spans, requests } = &*counter.0;
        println!("{} spans of {} requests", spans.load(Ordering::Relaxed), requests.load(Ordering::Relaxed));
        Ok(())
    })
}
