//! Metrics for Prometheus. Labels have few values: methods, routes and statuses, never users, rooms or servers.

use std::time::Duration;

use http::{Method, StatusCode};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper ends of the buckets of durations, in seconds.
const DURATION_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

const REQUESTS: &str = "ravel_http_requests_total";
const DURATIONS: &str = "ravel_http_request_duration_seconds";
const RUNNING: &str = "ravel_http_requests_running";
const CONNECTIONS: &str = "ravel_http_connections";

/// How often memory of observations is given back.
pub(super) const UPKEEP: Duration = Duration::from_secs(5);

/// Makes everything in this process count from now on. Every metric whose name ends with `_seconds` has buckets of durations.
pub(super) fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS)?
        .install_recorder()?;
    metrics::describe_counter!(REQUESTS, "HTTP requests by method, route and status");
    metrics::describe_histogram!(DURATIONS, metrics::Unit::Seconds, "Time until the head of the answer is there");
    metrics::describe_gauge!(RUNNING, "HTTP requests that are being answered");
    metrics::describe_gauge!(CONNECTIONS, "Connections that are open");
    metrics::gauge!("ravel_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Returns the label of a method; clients can make up others.
pub(super) fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Counts a request.
pub(super) fn request(method: &'static str, route: &str, status: StatusCode, elapsed: Duration) {
    let (route, status) = (route.to_owned(), status.as_str().to_owned());
    metrics::counter!(REQUESTS, "method" => method, "route" => route.clone(), "status" => status).increment(1);
    metrics::histogram!(DURATIONS, "method" => method, "route" => route).record(elapsed);
}

/// A request that is being answered; counted until it is dropped, also when its client goes away.
pub(super) struct Running;

impl Running {
    pub(super) fn start() -> Self {
        metrics::gauge!(RUNNING).increment(1.0);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::gauge!(RUNNING).decrement(1.0);
    }
}

/// A connection that is open; counted until it is dropped.
pub(super) struct Connected;

impl Connected {
    pub(super) fn start() -> Self {
        metrics::gauge!(CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        metrics::gauge!(CONNECTIONS).decrement(1.0);
    }
}
