//! The gRPC health checking protocol (`grpc.health.v1.Health`) on the admin port: Check and Watch.
//!
//! It says what `/readyz` says, asked at the moment of the question, so the two cannot differ: SERVING where the page has
//! 200. There are two services: the whole server (the empty name) and what it serves (`annulus.kv`, `annulus.ecs`). Not
//! here: sockets ([`crate::admin`]), and what being ready means.
//!
//! Bounds: a watcher costs one look every [`LOOK`], and there are few ([`crate::admin`] limits connections and streams).
#![allow(clippy::disallowed_methods)] // a shell: one task per watcher

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::admin::Page;

/// How soon a watcher learns of a change.
const LOOK: Duration = Duration::from_millis(200);
/// The page that decides.
const READY: &str = "/readyz";

/// Answers health questions from a port's pages.
pub(crate) struct Checks<R> {
    route: Arc<R>,
    service: &'static str,
}

impl<R> Clone for Checks<R> {
    fn clone(&self) -> Self {
        Checks { route: self.route.clone(), service: self.service }
    }
}

/// The gRPC service for the whole server and for `service`.
pub(crate) fn server<R>(route: Arc<R>, service: &'static str) -> HealthServer<Checks<R>>
where
    R: Fn(&str) -> Page + Send + Sync + 'static,
{
    HealthServer::new(Checks { route, service })
}

impl<R: Fn(&str) -> Page> Checks<R> {
    /// None: there is no such service.
    fn look(&self, service: &str) -> Option<ServingStatus> {
        let known = service.is_empty() || service == self.service;
        let ready = || (self.route)(READY).status == 200;
        known.then(|| if ready() { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn says(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl<R: Fn(&str) -> Page + Send + Sync + 'static> Health for Checks<R> {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let known = || format!("no such service; there are: \"\" (the whole server) and {:?}", self.service);
        self.look(&service).map(|status| Response::new(says(status))).ok_or_else(|| Status::not_found(known()))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (service, checks) = (request.into_inner().service, self.clone());
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut told = None;
            loop {
                let status = checks.look(&service).unwrap_or(ServingStatus::ServiceUnknown);
                if told.replace(status) != Some(status) && sender.send(Ok(says(status))).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::task::{Context, Poll};

    use hyper::body::Incoming;
    use hyper::client::conn::http2::{SendRequest, handshake};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tonic::codegen::{Service, http};
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::admin;

    /// tonic's generated client over a plain HTTP/2 connection: its own transport would bring more packages.
    struct Wire(SendRequest<tonic::body::Body>);

    impl Service<http::Request<tonic::body::Body>> for Wire {
        type Response = http::Response<Incoming>;
        type Error = hyper::Error;
        type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
            Box::pin(self.0.send_request(request))
        }
    }

    async fn client(addr: std::net::SocketAddr) -> HealthClient<Wire> {
        let stream = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        HealthClient::with_origin(Wire(sender), format!("http://{addr}").parse().unwrap())
    }

    fn asked(service: &str) -> HealthCheckRequest {
        HealthCheckRequest { service: service.into() }
    }

    #[tokio::test]
    async fn health_is_what_readyz_says_at_the_moment_of_the_question() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (ready, stop) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let seen = ready.clone();
        let route = move |_: &str| Page::text(if seen.load(SeqCst) { 200 } else { 503 }, "");
        let server = tokio::spawn(admin::serve(listener, "annulus.kv", route, stop.clone()));
        let mut client = client(addr).await;

        for service in ["", "annulus.kv"] {
            let answer = client.check(asked(service)).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::NotServing);
        }
        assert_eq!(client.check(asked("another")).await.unwrap_err().code(), tonic::Code::NotFound);

        let mut unknown = client.watch(asked("another")).await.unwrap().into_inner();
        assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
        let mut watch = client.watch(asked("annulus.kv")).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        ready.store(true, SeqCst);
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        assert_eq!(client.check(asked("")).await.unwrap().into_inner().status(), ServingStatus::Serving);

        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(10), watch.message()).await.unwrap();
        assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    }
}
