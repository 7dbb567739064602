//! Files: of clients, and for other servers.

use axum::body::{Body, Bytes};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use ravel_homeserver::{
    accounts::{NewDevice, Registration, Role},
    federation::{FederationError, SendOptions},
};
use ruma::api::federation::authenticated_media::{
    FileOrLocation,
    get_content::{self, v1::Request as FederationDownload},
    get_content_thumbnail,
};
use serde_json::{Value, json};

use super::world::{MAX_UPLOAD_SIZE, Server, World};

/// Somebody who uploads and looks at files.
struct Client<'a> {
    world: &'a World,
    server: &'a Server,
    token: Option<String>,
}

impl<'a> Client<'a> {
    async fn new(world: &'a World, server: &'a Server) -> Self {
        Self::with_role(world, server, Role::User).await
    }

    async fn with_role(world: &'a World, server: &'a Server, role: Role) -> Self {
        let registration = Registration { username: None, password: None, role, device: Some(NewDevice::default()) };
        let login = server.app.accounts.register(registration).await.unwrap().login.unwrap();
        Self { world, server, token: Some(login.access_token) }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Response<Bytes> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.world.ask(self.server, request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Response<Bytes> {
        self.ask(Method::GET, path, &[], "").await
    }

    /// Uploads a file and returns its id.
    async fn upload(&self, query: &str, content_type: &str, content: impl Into<Body>) -> String {
        let path = format!("/_matrix/media/v3/upload{query}");
        let answer = self.ask(Method::POST, &path, &[("content-type", content_type)], content).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let uri = json(&answer)["content_uri"].as_str().unwrap().to_owned();
        uri.strip_prefix(&format!("mxc://{}/", self.server.name)).unwrap().to_owned()
    }

    /// Asks for a file as clients do.
    async fn download(&self, server: &Server, rest: &str) -> Response<Bytes> {
        self.get(&format!("/_matrix/client/v1/media/download/{}/{rest}", server.name)).await
    }
}

fn json(answer: &Response<Bytes>) -> Value {
    serde_json::from_slice(answer.body()).unwrap()
}

#[track_caller]
fn fails(answer: &Response<Bytes>, status: u16, errcode: &str) {
    assert_eq!((answer.status().as_u16(), json(answer)["errcode"].as_str()), (status, Some(errcode)), "{answer:?}");
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

#[tokio::test]
async fn sc_191_sc_192_a_file_is_shown_without_danger() {
    let world = World::default();
    let server = world.server("a.org").await;
    let client = Client::new(&world, &server).await;
    let config = client.get("/_matrix/client/v1/media/config").await;
    assert_eq!(json(&config), json!({ "m.upload.size": MAX_UPLOAD_SIZE }));
    assert_eq!(json(&client.get("/_matrix/media/v3/config").await), json(&config));
    let media_id = client.upload("?filename=caf%C3%A9%0D%0A.html", "TEXT/HTML", "<script>").await;
    let answer = client.download(&server, &media_id).await;
    assert_eq!((answer.status(), &answer.body()[..]), (StatusCode::OK, &b"<script>"[..]));
    for (name, value) in [
        ("content-type", "TEXT/HTML"),
        ("content-disposition", "attachment; filename*=utf-8''caf%C3%A9%0D%0A.html"),
        ("content-length", "8"),
        (
            "content-security-policy",
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; \
             object-src 'self';",
        ),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("cache-control", "private, max-age=86400, immutable"),
        ("access-control-allow-origin", "*"),
        ("vary", "Authorization"),
    ] {
        assert_eq!(text(answer.headers(), name), value);
    }
    let renamed = client.download(&server, &format!("{media_id}/a%20%22b%22.txt")).await;
    assert_eq!(text(renamed.headers(), "content-disposition"), "attachment; filename=\"a \\\"b\\\".txt\"");
    let path = "/_matrix/media/v3/upload";
    let untyped = json(&client.ask(Method::POST, path, &[], "x").await)["content_uri"].as_str().unwrap().to_owned();
    let answer = client.download(&server, untyped.rsplit('/').next().unwrap()).await;
    assert_eq!(text(answer.headers(), "content-type"), "application/octet-stream");
    assert_eq!(text(answer.headers(), "content-disposition"), "attachment");
    let image = client.upload("?filename=a.png", "image/png", "no image").await;
    let answer = client.download(&server, &image).await;
    assert_eq!(text(answer.headers(), "content-disposition"), "inline; filename=a.png");
}

#[tokio::test]
async fn sc_190_ids_that_are_paths_lead_nowhere() {
    let world = World::default();
    let server = world.server("a.org").await;
    let client = Client::new(&world, &server).await;
    let long = "a".repeat(4_096);
    for id in ["..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "a%00", "a.b", "%c3%a4", long.as_str()] {
        fails(&client.download(&server, id).await, 400, "M_INVALID_PARAM");
        let asked = Request::get(format!("/_matrix/federation/v1/media/download/{id}")).body(Bytes::new()).unwrap();
        let from = world.server("b.org").await;
        let refused = from.app.homeserver.client.send_raw(&server.name, asked, SendOptions::default()).await;
        let Err(FederationError::Remote(error)) = refused else { panic!("{refused:?}") };
        assert_eq!((error.status, error.errcode.as_deref()), (StatusCode::BAD_REQUEST, Some("M_INVALID_PARAM")));
    }
    for name in ["a%2fb", "..", "%00", "a.org%2f..", "a_b"] {
        let answer = client.get(&format!("/_matrix/client/v1/media/download/{name}/abc")).await;
        assert!(matches!(answer.status().as_u16(), 400 | 404), "{name}: {answer:?}");
    }
    fails(&client.download(&server, "abc").await, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn sc_193_without_access_token_nothing_is_shown_or_taken() {
    let world = World::default();
    let server = world.server("a.org").await;
    let client = Client::new(&world, &server).await;
    let media_id = client.upload("", "text/plain", "some text").await;
    let stranger = Client { token: None, ..client };
    fails(&stranger.download(&server, &media_id).await, 401, "M_MISSING_TOKEN");
    fails(&stranger.ask(Method::POST, "/_matrix/media/v3/upload", &[], "x").await, 401, "M_MISSING_TOKEN");
    for version in ["r0", "v1", "v3"] {
        for path in ["download/a.org/ID", "download/a.org/ID/name", "thumbnail/a.org/ID?width=32&height=32"] {
            let path = path.replace("ID", &media_id);
            fails(&stranger.get(&format!("/_matrix/media/{version}/{path}")).await, 404, "M_NOT_FOUND");
        }
        fails(&stranger.get(&format!("/_matrix/media/{version}/config")).await, 401, "M_MISSING_TOKEN");
    }
    let guest = Client::with_role(&world, &server, Role::Guest).await;
    fails(&guest.ask(Method::POST, "/_matrix/media/v3/upload", &[], "x").await, 403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(guest.download(&server, &media_id).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn sc_195_uploads_are_counted() {
    let world = World::default();
    let server = world.server("a.org").await;
    let client = Client::new(&world, &server).await;
    let largest = vec![b'x'; usize::try_from(MAX_UPLOAD_SIZE).unwrap()];
    let upload = async |body: Vec<u8>, headers: &[(&str, &str)]| {
        client.ask(Method::POST, "/_matrix/media/r0/upload", headers, body).await
    };
    assert_eq!(upload(largest.clone(), &[]).await.status(), StatusCode::OK);
    let larger = [&largest[..], b"x"].concat();
    fails(&upload(larger.clone(), &[]).await, 413, "M_TOO_LARGE");
    fails(&upload(Vec::new(), &[("content-length", "100001")]).await, 413, "M_TOO_LARGE");
    fails(&upload(Vec::new(), &[("content-encoding", "gzip")]).await, 415, "M_UNKNOWN");
    let long = format!("/_matrix/media/v3/upload?filename={}", "x".repeat(1_025));
    fails(&client.ask(Method::POST, &long, &[], "x").await, 400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn other_servers_get_the_files_of_this_one_in_two_parts() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let client = Client::new(&world, &a).await;
    let media_id = client.upload("?filename=a.txt", "text/plain", "\r\n--some\r\n\r\ntext\r\n").await;
    let get = async |media_id: &str| -> Result<get_content::v1::Response, FederationError> {
        let request = FederationDownload::new(media_id.to_owned());
        b.app.homeserver.client.send(&a.name, request, SendOptions::default()).await
    };
    let FileOrLocation::File(file) = get(&media_id).await.unwrap().content else { panic!("it is no file") };
    assert_eq!(file.file, b"\r\n--some\r\n\r\ntext\r\n");
    assert_eq!(file.content_type.as_deref(), Some("text/plain"));
    assert_eq!(file.content_disposition.unwrap().to_string(), "inline; filename=a.txt");
    let Err(FederationError::Remote(error)) = get("nothing").await else { panic!("there is no such file") };
    assert_eq!((error.status, error.errcode.as_deref()), (StatusCode::NOT_FOUND, Some("M_NOT_FOUND")));
}

#[tokio::test]
async fn a_file_of_another_server_is_shown_and_kept() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (Client::new(&world, &a).await, Client::new(&world, &b).await);
    let media_id = alice.upload("?filename=caf%C3%A9.png", "image/png", "an image").await;
    let answer = bob.download(&a, &media_id).await;
    assert_eq!(&answer.body()[..], b"an image");
    assert_eq!(text(answer.headers(), "content-type"), "image/png");
    assert_eq!(text(answer.headers(), "content-disposition"), "inline; filename*=utf-8''caf%C3%A9.png");
    world.cut(&a, true);
    assert_eq!(&bob.download(&a, &media_id).await.body()[..], b"an image");
    assert_eq!(world.asked(&a, "/media/"), 1);
    fails(&bob.download(&a, "another").await, 502, "M_UNKNOWN");
    world.cut(&a, false);
    // What it has of others it does not give away.
    let refused = Client::new(&world, &a).await.download(&b, &media_id).await;
    fails(&refused, 404, "M_NOT_FOUND");
}

#[tokio::test]
async fn sc_193_nothing_is_fetched_for_strangers() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let media_id = Client::new(&world, &a).await.upload("", "text/plain", "some text").await;
    let stranger = Client { world: &world, server: &b, token: None };
    fails(&stranger.download(&a, &media_id).await, 401, "M_MISSING_TOKEN");
    fails(&stranger.get(&format!("/_matrix/media/v3/download/a.org/{media_id}")).await, 404, "M_NOT_FOUND");
    assert_eq!(world.asked(&a, "/media/"), 0);
}

#[tokio::test]
async fn sc_202_an_answer_that_lies_is_not_shown() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (Client::new(&world, &a).await, Client::new(&world, &b).await);
    let media_id = alice.upload("", "text/plain", "some text").await;
    for body in ["some text", "", "{}"] {
        world.tamper(move |_, path, answer| {
            if path.contains("/media/download/") {
                *answer.body_mut() = Bytes::from_static(body.as_bytes());
            }
        });
        fails(&bob.download(&a, &media_id).await, 502, "M_UNKNOWN");
    }
    world.tamper(|_, path, answer| {
        if path.contains("/media/download/") {
            let large = "x".repeat(usize::try_from(MAX_UPLOAD_SIZE).unwrap() + 1);
            *answer.body_mut() = String::from_utf8_lossy(answer.body()).replace("some text", &large).into();
        }
    });
    fails(&bob.download(&a, &media_id).await, 502, "M_TOO_LARGE");
    world.be_honest();
    assert_eq!(bob.download(&a, &media_id).await.status(), StatusCode::OK);
}

/// A PNG of one pixel.
const PNG: &[u8] = b"\x89\x50\x4e\x47\x0d\x0a\x1a\x0a\x00\x00\x00\x0d\x49\x48\x44\x52\x00\x00\x00\x01\x00\x00\x00\x01\
    \x08\x00\x00\x00\x00\x3a\x7e\x9b\x55\x00\x00\x00\x0a\x49\x44\x41\x54\x78\x9c\x63\x60\x00\x00\x00\
    \x02\x00\x01\x48\xaf\xa4\x71\x00\x00\x00\x00\x49\x45\x4e\x44\xae\x42\x60\x82";

#[tokio::test]
async fn images_have_thumbnails_and_other_files_have_none() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (Client::new(&world, &a).await, Client::new(&world, &b).await);
    let image = alice.upload("?filename=a.png", "text/html", PNG).await;
    let other = alice.upload("", "image/png", "<svg/>").await;
    let path = |id: &str, query: &str| format!("/_matrix/client/v1/media/thumbnail/a.org/{id}?{query}");
    for client in [&alice, &bob] {
        let answer = client.get(&path(&image, "width=32&height=32&method=crop")).await;
        assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
        assert_eq!(text(answer.headers(), "content-type"), "image/png");
        assert_eq!(text(answer.headers(), "content-disposition"), "inline; filename=thumbnail.png");
        assert!(answer.headers().contains_key("content-security-policy"));
        assert!(answer.body().starts_with(b"\x89PNG"));
        fails(&client.get(&path(&other, "width=32&height=32")).await, 400, "M_UNKNOWN");
        fails(&client.get(&path(&image, "width=32&height=32&method=melt")).await, 400, "M_INVALID_PARAM");
        fails(&client.get(&path(&image, "width=-1&height=32")).await, 400, "M_INVALID_PARAM");
        fails(&client.get(&path("nothing", "width=32&height=32")).await, 404, "M_NOT_FOUND");
        fails(&client.get(&path("..%2fx", "width=32&height=32")).await, 400, "M_INVALID_PARAM");
    }
    let request = get_content_thumbnail::v1::Request::new(image, 32_u32.into(), 32_u32.into());
    let answer = b.app.homeserver.client.send(&a.name, request, SendOptions::default()).await.unwrap();
    let FileOrLocation::File(file) = answer.content else { panic!("it is no file") };
    assert_eq!(file.content_type.as_deref(), Some("image/png"));
    assert!(file.file.starts_with(b"\x89PNG"));
}
