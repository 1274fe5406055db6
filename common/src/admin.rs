//! The admin port: a very small HTTP server for probes, scripts and dashboards.
//!
//! It knows no routes: a closure turns a path into a [`Page`]. It only answers GET and HEAD, takes no request bodies, and
//! changes nothing; so it needs no authentication beyond the address it is bound to.
//!
//! A caller whose first bytes are those of HTTP/2 gets that, and with the feature `health` gRPC health checks
//! ([`crate::health`]) beside the pages; all others get HTTP/1.1.
//!
//! Bounds: [`CONNECTIONS`] at a time (a further one takes the place of the oldest, so that nobody's idle connections hide
//! the server's health), [`HEAD`] bytes of request head, [`PATIENCE`] to send it; a page is made only when its request is
//! complete. An HTTP/2 connection may have [`STREAMS`] requests open and must answer a ping every [`PATIENCE`], so that a
//! watcher that is gone does not hold its place.
#![allow(clippy::disallowed_methods)] // a shell: one task per connection

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::lobby::Lobby;

/// Scrapers and dashboards keep a few connections open; more are a mistake.
const CONNECTIONS: usize = 64;
/// Bytes of a request's head: a browser's cookies fit.
const HEAD: usize = 16 * 1024;
/// How long a client may take to send a request, or keep an idle connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests at a time of one HTTP/2 connection: a watch or two, and a check.
#[cfg(feature = "health")]
const STREAMS: u32 = 8;
/// How long to wait when no connection can be accepted (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a path shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub content_type: &'static str,
    /// The content.
    pub body: Bytes,
}

impl Page {
    /// Plain text.
    pub fn text(status: u16, body: impl Into<Bytes>) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// JSON, with 200.
    pub fn json(body: impl Into<Bytes>) -> Page {
        Page { status: 200, content_type: "application/json", body: body.into() }
    }

    /// HTML, with 200.
    pub fn html(body: impl Into<Bytes>) -> Page {
        Page { status: 200, content_type: "text/html; charset=utf-8", body: body.into() }
    }

    /// Metrics in the text format that Prometheus scrapes, with 200.
    pub fn metrics(body: impl Into<Bytes>) -> Page {
        Page { status: 200, content_type: "text/plain; version=0.0.4; charset=utf-8", body: body.into() }
    }

    /// 404, naming what there is.
    #[must_use]
    pub fn not_found(known: &str) -> Page {
        Page::text(404, format!("no such page; there are: {known}\n"))
    }
}

/// Serves `route(path)` until `stop`. The path comes without its query. `service` is what health checks call that which
/// the page `/readyz` speaks of.
pub async fn serve<R>(listener: TcpListener, service: &'static str, route: R, stop: CancellationToken)
where
    R: Fn(&str) -> Page + Send + Sync + 'static,
{
    let (route, room) = (Arc::new(route), Lobby::new(CONNECTIONS));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (route, stop, seat) = (route.clone(), stop.clone(), room.enter());
        tokio::spawn(async move { stop.run_until_cancelled(seat.during(connection(stream, service, route))).await });
    }
}

async fn connection<R>(mut stream: TcpStream, service: &'static str, route: Arc<R>)
where
    R: Fn(&str) -> Page + Send + Sync + 'static,
{
    let _ = stream.set_nodelay(true);
    let Ok(Ok(begun)) = tokio::time::timeout(PATIENCE, begin(&mut stream)).await else { return };
    let second = begun.starts_with(HTTP2);
    let (read, write) = stream.into_split();
    let io = TokioIo::new(tokio::io::join(std::io::Cursor::new(begun).chain(read), write));
    let served = if second { http2(io, service, route).await } else { http1(io, route).await };
    if let Err(error) = served {
        log::debug!("admin connection ended: {error}");
    }
}

/// How an HTTP/2 connection begins, and no request of HTTP/1.1 does.
const HTTP2: &[u8] = b"PRI";

/// The first bytes of a connection: as many as tell what is spoken.
async fn begin(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut begun = Vec::with_capacity(HTTP2.len());
    while begun.len() < HTTP2.len() && HTTP2.starts_with(&begun) {
        if stream.take((HTTP2.len() - begun.len()) as u64).read_buf(&mut begun).await? == 0 {
            break;
        }
    }
    Ok(begun)
}

async fn http1<I, R>(io: I, route: Arc<R>) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    R: Fn(&str) -> Page,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &*route);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        // Simple clients close their sending half behind the request and still want the answer.
        .half_close(true)
        .max_buf_size(HEAD)
        .serve_connection(io, answer)
        .await
}

/// Pages and health checks over one connection.
#[cfg(feature = "health")]
async fn http2<I, R>(io: I, service: &'static str, route: Arc<R>) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    R: Fn(&str) -> Page + Send + Sync + 'static,
{
    use http_body_util::Either;
    use tonic::codegen::Service as _;

    let health = crate::health::server(route.clone(), service);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (mut health, route) = (health.clone(), route.clone());
        async move {
            let kind = request.headers().get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
            if kind.starts_with(b"application/grpc") {
                return health.call(request).await.map(|response| response.map(Either::Right));
            }
            Ok(respond(&request, &*route).map(Either::Left))
        }
    });
    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32)
        .keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .serve_connection(io, answer)
        .await
}

/// Without health checks there is no HTTP/2: HTTP/1.1 answers that it does not understand.
#[cfg(not(feature = "health"))]
async fn http2<I, R>(io: I, _service: &'static str, route: Arc<R>) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    R: Fn(&str) -> Page,
{
    http1(io, route).await
}

fn respond(request: &Request<Incoming>, route: &impl Fn(&str) -> Page) -> Response<Full<Bytes>> {
    let page = match *request.method() {
        Method::GET | Method::HEAD => route(request.uri().path()),
        _ => Page::text(405, "the admin port only answers GET and HEAD\n"),
    };
    let mut response = Response::new(Full::new(page.body));
    *response.status_mut() = StatusCode::from_u16(page.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if page.status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn ask(addr: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_served_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let route = |path: &str| match path {
            "/healthz" => Page::text(200, "ok\n"),
            "/status" => Page::json("{}"),
            // More than the sockets take at once.
            "/large" => Page::text(200, vec![b'x'; 8 << 20]),
            _ => Page::not_found("/healthz /status"),
        };
        let server = tokio::spawn(serve(listener, "annulus.kv", route, stop.clone()));

        let health = ask(addr, "GET /healthz?verbose=1 HTTP/1.1").await;
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
        assert!(ask(addr, "GET /status HTTP/1.1").await.contains("content-type: application/json\r\n"));
        assert!(ask(addr, "GET /large HTTP/1.1").await.ends_with(&"x".repeat(8 << 20)));
        assert!(ask(addr, "HEAD /healthz HTTP/1.1").await.ends_with("\r\n\r\n"));
        assert!(ask(addr, "GET /nothing HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(addr, "POST /healthz HTTP/1.1").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(addr, "put k v").await.starts_with("HTTP/1.1 400 "));
        // Begins like HTTP/2 for a while.
        assert!(ask(addr, "PROPFIND /healthz HTTP/1.1").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(addr, "P").await.starts_with("HTTP/1.1 400 "));

        // Idle connections do not keep anybody out.
        let mut idle = Vec::new();
        for _ in 0..2 * CONNECTIONS {
            idle.push(TcpStream::connect(addr).await.unwrap());
        }
        assert!(ask(addr, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200 OK\r\n"));

        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
