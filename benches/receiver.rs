//! A receiver of traces (OTLP over gRPC), of the published protos, that counts spans and throws them away: what exporting
//! costs the host is measured with something real on the other side.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans;
        let spans = resources.iter().flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len());
        self.0.fetch_add(spans.sum(), Ordering::Relaxed);
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
        println!("{} spans", counter.0.load(Ordering::Relaxed));
        Ok(())
    })
}
