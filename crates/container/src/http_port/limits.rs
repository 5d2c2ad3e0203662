//! What one client, and all of them together, may take of a container. What happens at a bound stands beside it.

use std::time::Duration;

/// Connections from outside; a further one is answered 503 and closed.
pub const CONNECTIONS_MAX: usize = 2_048;
/// Connections of other containers; a further one waits to be accepted.
pub const NEIGHBOURS_MAX: usize = 512;
/// Requests that are answered at the same time; a further one gets 503. A connection has one at a time.
pub const REQUESTS_MAX: usize = 1_024;
/// Requests to applications without sessions among them: each holds an instance for as long as it streams, and calls need
/// some too. A further one gets 503. One whose client has gone counts until its handler has ended.
pub const STREAMED_MAX: usize = 128;
/// Requests to one application that are answered, or wait for their turn, at the same time; a further one gets 503.
pub const ADMITTED_OF_ONE_MAX: usize = 256;
/// Those of them that stream; a further one gets 503.
pub const STREAMED_OF_ONE_MAX: usize = 64;
/// Events of its sessions that are handled at the same time: handlers of calls take turns with these. A further one waits.
/// One whose client has gone counts until it is handled.
pub const HANDLED_OF_ONE_MAX: usize = 32;
/// For so long; then it gets 503.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(3);
/// Octets of the bodies of requests that are kept whole, of all requests together; what is over it gets 503.
pub const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// So many octets of a body that is too long are read all the same, since a client that still sends does not see its answer.
pub const UNWANTED_BYTES_MAX: usize = 1024 * 1024;
/// The head of a request, in octets; a longer one gets 431.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields of a request; more get 431.
pub const HEADERS_MAX: usize = 128;

/// A head must be there so long after the connection began or the last request was answered; else it is closed.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(15);
/// Between two pieces of a request's body; then the request gets 408, and its connection is closed.
pub const BODY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A body that is kept whole must be there after this; then as above.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// A client that reads nothing of what waits for it for so long is given up.
pub const WRITE_PAUSE_MAX: Duration = Duration::from_secs(20);

/// Times that a request is forwarded; then it gets 503.
pub const HOPS_MAX: u8 = 2;
/// The container that a request was forwarded to must answer within this; else 504.
pub const FORWARD_TIME_MAX: Duration = Duration::from_secs(10);
/// For so long a request waits for a container that cannot be reached, or for its death to be known; then it gets 503.
pub const OWNER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Between two looks at it.
pub const OWNER_WAIT_STEP: Duration = Duration::from_millis(50);

/// A port that is taken is tried again after this.
pub const BIND_PAUSE: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptors left) a listener rests.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is being answered when a container ends, and need not wait for a drain, may take so long.
pub const LAST_ANSWERS_MAX: Duration = Duration::from_millis(500);

/// What a client is told that came at a bad moment, in seconds.
pub const RETRY_AFTER: &str = "1";
