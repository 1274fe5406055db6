//! Socket options of internal connections.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// Sent and not acknowledged for this long: the way to the peer is broken, and TCP's own patience (minutes of growing
/// pauses) would delay the healing of a short outage.
const UNACKED: Duration = Duration::from_secs(3);
/// Silent for this long: ask whether the other side is still there.
const IDLE: Duration = Duration::from_secs(3);

/// No Nagle, and broken ways noticed within seconds. An option that the system lacks is done without.
pub(crate) fn tune(stream: &TcpStream) {
    let results = [
        stream.set_nodelay(true).is_ok(),
        sockopt::set_tcp_user_timeout(stream, u32::try_from(UNACKED.as_millis()).unwrap_or(0)).is_ok(),
        sockopt::set_socket_keepalive(stream, true).is_ok(),
        sockopt::set_tcp_keepidle(stream, IDLE).is_ok(),
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1)).is_ok(),
        sockopt::set_tcp_keepcnt(stream, 3).is_ok(),
    ];
    if results.contains(&false) {
        log::debug!("not all socket options could be set: {results:?}");
    }
}
