mod fetching;
mod thumbnails;

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use ravel_store::MemoryStore;
use tokio::io::AsyncReadExt;

use super::*;
use crate::{
    homeserver::Homeserver,
    testing::{ManualClock, TestNetwork, config, open_server_as, server_name, user_id},
};

/// A server with a folder for its files.
struct World {
    folder: tempfile::TempDir,
    store: MemoryStore,
    network: Arc<TestNetwork>,
}

impl World {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), store: MemoryStore::new(), network: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("media")
    }

    async fn open(&self) -> Homeserver {
        self.open_with(10).await
    }

    /// Opens the server with a limit on the bytes of files.
    async fn open_with(&self, file_bytes_max: u64) -> Homeserver {
        let media = MediaConfig { path: self.path(), file_bytes_max };
        let config = crate::homeserver::HomeserverConfig { media, ..config("a", "evil") };
        open_server_as(config, &self.store, Arc::new(ManualClock::default()), self.network.clone()).await.0
    }
}

fn body(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    stream::iter(parts)
}

async fn read(mut file: OpenFile) -> String {
    let mut text = String::new();
    file.content.read_to_string(&mut text).await.unwrap();
    assert_eq!(file.bytes, text.len() as u64);
    text
}

/// Returns the paths of all files below a folder, sorted.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_in(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn named(name: &str, content_type: &str) -> Description {
    Description { content_type: Some(content_type.to_owned()), file_name: Some(name.to_owned()) }
}

async fn upload(server: &Homeserver, description: Description, parts: &[&'static str]) -> Result<MediaId, MediaError> {
    server.media.upload(&user_id("@alice:a"), description, body(parts)).await
}

#[tokio::test]
async fn what_was_uploaded_is_there_after_a_restart() {
    let world = World::new();
    let server = world.open().await;
    let description = named("../../a name", "text/plain");
    let first = upload(&server, description.clone(), &["some ", "", "text"]).await.unwrap();
    let second = upload(&server, Description::default(), &["some text"]).await.unwrap();
    let empty = upload(&server, Description::default(), &[]).await.unwrap();
    assert_ne!(first, second);
    let server = world.open().await;
    let file = server.media.local(&first).await.unwrap();
    assert_eq!(file.description, description);
    assert_eq!(read(file).await, "some text");
    assert_eq!(server.media.local(&second).await.unwrap().description, Description::default());
    assert_eq!(read(server.media.local(&empty).await.unwrap()).await, "");
    // Each content is there once.
    let of_text = "b9/4f/6f125c79e3a5ffaa826f584c10d52ada669e6762051b826b55776d05aed2";
    let of_nothing = "e3/b0/c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(files_in(&world.path()), [of_text, of_nothing].map(|path| world.path().join(path)));
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    upload(&world.open().await, Description::default(), &["text"]).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = files_in(&world.path()).pop().unwrap();
    assert_eq!(mode(&file), 0o600);
    for folder in file.ancestors().skip(1).take(3) {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
}

#[tokio::test]
async fn sizes_are_counted_and_nothing_is_left_of_what_was_not_kept() {
    let world = World::new();
    let server = world.open().await;
    let fits = upload(&server, Description::default(), &["12345", "67890"]).await.unwrap();
    assert_eq!(read(server.media.local(&fits).await.unwrap()).await, "1234567890");
    for parts in [&["12345", "678901"][..], &["12345678901"]] {
        let refused = upload(&server, Description::default(), parts).await;
        assert!(matches!(refused, Err(MediaError::TooLarge { bytes_max: 10 })), "{refused:?}");
    }
    let breaks_off = stream::iter([Ok(Bytes::from_static(b"123")), Err("gone")]);
    let refused = server.media.upload(&user_id("@alice:a"), Description::default(), breaks_off).await;
    assert!(matches!(refused, Err(MediaError::BrokenOff)), "{refused:?}");
    let refused = upload(&server, named(&"x".repeat(1025), "text/plain"), &["1"]).await;
    assert!(matches!(refused, Err(MediaError::FileNameTooLong)), "{refused:?}");
    // One that is not waited for any more.
    let never_ends = body(&["123"]).chain(stream::pending());
    let user = user_id("@alice:a");
    let mut upload = Box::pin(server.media.upload(&user, Description::default(), never_ends));
    while files_in(&world.path()).len() < 2 {
        assert!((&mut upload).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    drop(upload);
    assert_eq!(files_in(&world.path()).len(), 1);
}

#[tokio::test]
async fn what_a_crash_left_is_removed_and_nothing_else() {
    let world = World::new();
    let server = world.open().await;
    let kept = upload(&server, Description::default(), &["text"]).await.unwrap();
    let left = world.path().join("unfinished/.tmp123");
    fs::write(&left, "half").unwrap();
    let server = world.open().await;
    assert!(!left.exists());
    assert_eq!(read(server.media.local(&kept).await.unwrap()).await, "text");
}

#[tokio::test]
async fn files_that_are_damaged_or_gone_are_not_found() {
    let world = World::new();
    let server = world.open().await;
    let media_id = upload(&server, Description::default(), &["text"]).await.unwrap();
    let path = files_in(&world.path()).pop().unwrap();
    fs::write(&path, "tex").unwrap();
    assert!(matches!(server.media.local(&media_id).await, Err(MediaError::NotFound)));
    fs::remove_file(&path).unwrap();
    assert!(matches!(server.media.local(&media_id).await, Err(MediaError::NotFound)));
    // Uploading it again mends it.
    upload(&server, Description::default(), &["text"]).await.unwrap();
    assert_eq!(read(server.media.local(&media_id).await.unwrap()).await, "text");
}

#[test]
fn sc_190_media_ids_have_no_characters_of_paths() {
    let long = "a".repeat(256);
    for id in ["", ".", "..", "a/b", "a\\b", "../x", "%2e%2e", "..%2f", "a\0b", "a.b", "ä", " a", "a\n", long.as_str()]
    {
        assert_eq!(MediaId::parse(id), Err(InvalidMediaId), "{id:?}");
    }
    for id in ["a", "-", "_", "AZaz09-_", &long[1..]] {
        assert_eq!(MediaId::parse(id).unwrap().as_str(), id);
    }
}

#[test]
fn sc_192_what_is_no_header_is_no_content_type() {
    for text in ["text/plain\r\nX: y", "text/\u{e4}", "\u{7f}", " ", &"x".repeat(256)] {
        let described = Description { content_type: Some(text.to_owned()), file_name: None };
        assert_eq!(described.of_user().unwrap(), Description::default(), "{text:?}");
    }
    let described = Description { content_type: Some(" text/plain ".to_owned()), file_name: Some(String::new()) };
    assert_eq!(described.usable(), Description { content_type: Some("text/plain".to_owned()), file_name: None });
}
