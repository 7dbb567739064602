use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::atomic::{AtomicI64, AtomicU32, Ordering},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all, pending};
use http::Response;

use super::*;
use crate::{
    federation::{DnsError, SrvRecord},
    random::OsRandom,
};

/// A world written in lines:
///
/// - `wk HOST STATUS BODY`: an answer to `.well-known`; `-> URL` instead of the body redirects; no line: nothing listens
/// - `srv NAME PRIORITY PORT TARGET`, `srv NAME fails`
#[derive(Default)]
struct World {
    pages: BTreeMap<String, (u16, String)>,
    srv: BTreeMap<String, Vec<SrvRecord>>,
    failing: BTreeSet<String>,
    asked: AtomicU32,
}

impl World {
    fn new(text: &str) -> Arc<Self> {
        let mut world = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["wk", host, status, ..] => {
                    let body = line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
                    let uri =
                        if host.contains('/') { host.into() } else { format!("{host}/.well-known/matrix/server") };
                    world.pages.insert(format!("https://{uri}"), (status.parse().unwrap(), body));
                }
                ["srv", name, "fails"] => drop(world.failing.insert(name.into())),
                ["srv", name, priority, port, target] => {
                    let record = SrvRecord {
                        priority: priority.parse().unwrap(),
                        weight: 0,
                        port: port.parse().unwrap(),
                        target: target.trim_end_matches('.').into(),
                    };
                    world.srv.entry(name.into()).or_default().push(record);
                }
                _ => panic!("{line}"),
            }
        }
        Arc::new(world)
    }
}

impl Dns for World {
    fn srv<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvRecord>, DnsError>> {
        let failing = self.failing.contains(name);
        let records = self.srv.get(name).cloned().unwrap_or_default();
        Box::pin(async move { if failing { Err(DnsError::new(std::fmt::Error)) } else { Ok(records) } })
    }

    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, DnsError>> {
        unreachable!("discovery leaves addresses to the connector")
    }
}

impl HttpsGet for World {
    fn get<'a>(&'a self, uri: Uri, limits: RequestLimits) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        assert!(limits.answer_bytes <= 50 << 10);
        self.asked.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            let (status, body) = self.pages.get(&uri.to_string()).ok_or(NetworkError::Timeout)?;
            if body == "slow" {
                return pending().await;
            }
            let answer = Response::builder().status(*status);
            let answer = match body.strip_prefix("-> ") {
                Some(location) => answer.header("location", location),
                None => answer,
            };
            Ok(answer.body(Bytes::from(body.clone())).unwrap())
        })
    }
}

/// A clock that goes when it is told to.
#[derive(Default)]
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

fn discovery(world: &Arc<World>) -> (Discovery, Arc<Hands>) {
    let clock = Arc::new(Hands::default());
    let servers = ServerFilter::new(Vec::new(), vec!["evil.org".to_owned()]);
    (Discovery::new(world.clone(), world.clone(), clock.clone(), Arc::new(OsRandom), servers), clock)
}

/// Checks under which name and where a server is found: `NAME @ TARGET TARGET...`, or the error.
async fn check(world: &str, server: &str, expected: &str) {
    let (discovery, _) = discovery(&World::new(world));
    let found = match discovery.route(&ServerName::parse(server).unwrap()).await {
        Ok(Route { name, targets }) => {
            let targets: Vec<_> = targets.iter().map(Target::to_string).collect();
            format!("{name} @ {}", targets.join(" "))
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(found, expected, "{server} in {world}");
}

#[tokio::test]
async fn steps_1_and_2_ask_nobody() {
    let world = r#"
        wk a.b 200 {"m.server": "wrong"}
        wk 1.2.3.4 200 {"m.server": "wrong"}
        srv _matrix-fed._tcp.a.b 1 1 wrong."#;
    check(world, "1.2.3.4", "1.2.3.4 @ 1.2.3.4:8448").await;
    check(world, "1.2.3.4:443", "1.2.3.4:443 @ 1.2.3.4:443").await;
    check(world, "[2001:db8::1]", "[2001:db8::1] @ [2001:db8::1]:8448").await;
    check(world, "[2001:db8::1]:1", "[2001:db8::1]:1 @ [2001:db8::1]:1").await;
    check(world, "a.b:8448", "a.b:8448 @ a.b:8448").await;
    check(world, "a.b:443", "a.b:443 @ a.b:443").await;
}

#[tokio::test]
async fn step_3_delegates() {
    check(r#"wk a 200 {"m.server": "1.2.3.4"}"#, "a", "1.2.3.4 @ 1.2.3.4:8448").await;
    check(r#"wk a 200 {"m.server": "1.2.3.4:5"}"#, "a", "1.2.3.4:5 @ 1.2.3.4:5").await;
    check(r#"wk a 200 {"m.server": "[::1]:5"}"#, "a", "[::1]:5 @ [::1]:5").await;
    check(r#"wk a 200 {"m.server": "b.c:443"}"#, "a", "b.c:443 @ b.c:443").await;
    let delegated = r#"wk a 200 {"m.server": "b.c"}"#;
    let with = |lines: &str| format!("{delegated}\n{lines}");
    check(&with("srv _matrix-fed._tcp.b.c 1 7 t."), "a", "b.c @ t:7").await;
    check(&with("srv _matrix._tcp.b.c 1 7 t."), "a", "b.c @ t:7").await;
    check(&with("srv _matrix._tcp.b.c 1 7 old.\nsrv _matrix-fed._tcp.b.c 1 7 t."), "a", "b.c @ t:7").await;
    check(&with("srv _matrix-fed._tcp.a 1 7 wrong."), "a", "b.c @ b.c:8448").await;
    // Delegation is not followed twice.
    check(&with(r#"wk b.c 200 {"m.server": "d"}"#), "a", "b.c @ b.c:8448").await;
}

#[tokio::test]
async fn steps_4_to_6_follow_an_invalid_answer() {
    for answer in
        ["", "wk a 404 {}", "wk a 200 <html>", r#"wk a 500 {"m.server": "b"}"#, r#"wk a 200 {"m.server": "b:x"}"#]
    {
        let with = |lines: &str| format!("{answer}\n{lines}");
        check(&with("srv _matrix-fed._tcp.a 1 7 t."), "a", "a @ t:7").await;
        check(&with("srv _matrix._tcp.a 1 7 t."), "a", "a @ t:7").await;
        check(&with("srv _matrix._tcp.a 1 7 old.\nsrv _matrix-fed._tcp.a 1 7 t."), "a", "a @ t:7").await;
        check(&with(""), "a", "a @ a:8448").await;
        check(&with("srv _matrix-fed._tcp.a 20 7 t.\nsrv _matrix-fed._tcp.a 10 6 s."), "a", "a @ s:6 t:7").await;
    }
}

#[tokio::test]
async fn sc_203_srv_may_deny_the_service() {
    check("srv _matrix-fed._tcp.a 0 0 .", "a", "there is no server of the name a").await;
    check("srv _matrix-fed._tcp.a 0 0 .\nsrv _matrix._tcp.a 0 1 t.", "a", "there is no server of the name a").await;
    check("srv _matrix-fed._tcp.a fails", "a", "DNS has no answer for a").await;
}

#[tokio::test]
async fn redirects_are_followed() {
    check("wk a 302 -> https://b/x\nwk b/x 301 -> /y\nwk b/y 200 {\"m.server\": \"c:1\"}", "a", "c:1 @ c:1").await;
}

#[tokio::test]
async fn sc_023_sc_199_bad_redirects_are_no_delegation() {
    let last = |lines: &str| format!("{lines}\nwk z/ 200 {{\"m.server\": \"wrong\"}}");
    check(&last("wk a 302 -> http://z/"), "a", "a @ a:8448").await;
    check(&last("wk a 302 -> /.well-known/matrix/server"), "a", "a @ a:8448").await;
    check(&last("wk a 302 -> https://b/\nwk b/ 302 -> https://a/.well-known/matrix/server"), "a", "a @ a:8448").await;
    let chain = |length: usize| {
        let hops = (0..length).map(|hop| format!("wk h/{hop} 302 -> /{}\n", hop + 1));
        format!("wk a 302 -> https://h/0\n{}wk h/{length} 200 {{\"m.server\": \"c:1\"}}", hops.collect::<String>())
    };
    check(&chain(4), "a", "c:1 @ c:1").await;
    check(&chain(5), "a", "a @ a:8448").await;
    check(&chain(30), "a", "a @ a:8448").await;
}

#[tokio::test]
async fn circles_of_redirects_are_noticed_at_once() {
    let world = World::new("wk a 302 -> https://b/\nwk b/ 302 -> https://a/.well-known/matrix/server");
    let (discovery, _) = discovery(&world);
    assert_eq!(discovery.delegated_name(&ServerName::parse("a").unwrap()).await.as_str(), "a");
    assert_eq!(world.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn sc_199_slow_answers_are_given_up() {
    check("wk a 200 slow", "a", "a @ a:8448").await;
}

#[tokio::test]
async fn answers_are_remembered() {
    let world = World::new(r#"wk a 200 {"m.server": "b:1"}"#);
    let (discovery, clock) = discovery(&world);
    let server = ServerName::parse("a").unwrap();
    for (hour, asked) in [(0, 1), (23, 1), (24, 2), (47, 2), (48, 3)] {
        clock.0.store(hour * 3_600_000, Ordering::SeqCst);
        let names = join_all((0..3).map(|_| discovery.delegated_name(&server))).await;
        assert!(names.iter().all(|name| name.as_str() == "b:1"));
        assert_eq!(world.asked.load(Ordering::SeqCst), asked, "{hour}");
    }
}

#[tokio::test]
async fn failures_are_remembered() {
    let world = World::new("wk gone 404 {}");
    let (discovery, clock) = discovery(&world);
    for (server, times) in [
        ("gone", &[(0, 1), (59, 1), (60, 2), (119, 2), (120, 3)][..]),
        ("silent", &[(200, 1), (201, 1), (202, 2), (205, 2), (206, 3)]),
    ] {
        world.asked.store(0, Ordering::SeqCst);
        for (minute, asked) in times {
            clock.0.store(minute * 60_000, Ordering::SeqCst);
            assert_eq!(discovery.delegated_name(&ServerName::parse(server).unwrap()).await.as_str(), server);
            assert_eq!(world.asked.load(Ordering::SeqCst), *asked, "{server} {minute}");
        }
    }
}

/// A delegation outlives a passing failure of its web server, but not a clear answer, nor 48 hours.
#[tokio::test]
async fn a_delegation_outlives_a_passing_failure() {
    for (later, name_at_25_h) in [("", "b:1"), ("wk a 503 down", "b:1"), ("wk a 404 {}", "a")] {
        let (first, clock) = discovery(&World::new(r#"wk a 200 {"m.server": "b:1"}"#));
        let server = ServerName::parse("a").unwrap();
        assert_eq!(first.delegated_name(&server).await.as_str(), "b:1");
        // The same memory in a changed world.
        let (second, _) = discovery(&World::new(later));
        let shared = Arc::into_inner(second.shared).unwrap();
        let memory = Arc::into_inner(first.shared).unwrap().memory;
        let second = Discovery { shared: Arc::new(Shared { memory, clock: clock.clone(), ..shared }) };
        clock.0.store(25 * 3_600_000, Ordering::SeqCst);
        for _ in 0..2 {
            assert_eq!(second.delegated_name(&server).await.as_str(), name_at_25_h, "{later}");
        }
        clock.0.store(49 * 3_600_000, Ordering::SeqCst);
        assert_eq!(second.delegated_name(&server).await.as_str(), "a", "{later}");
    }
}

#[tokio::test]
async fn sc_146_nobody_delegates_to_a_denied_server() {
    check(r#"wk a 200 {"m.server": "EVIL.org:443"}"#, "a", "a @ a:8448").await;
    check(r#"wk a 200 {"m.server": "good.org:443"}"#, "a", "good.org:443 @ good.org:443").await;
}
