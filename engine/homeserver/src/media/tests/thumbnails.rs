//! Thumbnails of files.

use image::{GenericImageView, ImageFormat, RgbImage};

use super::*;

const WAIT: Duration = Duration::ZERO;

const SMALL: WantedThumbnail = WantedThumbnail { width: 30, height: 30, method: ThumbnailMethod::Crop };

fn png(width: u32, height: u32) -> Bytes {
    let mut content = std::io::Cursor::new(Vec::new());
    RgbImage::new(width, height).write_to(&mut content, ImageFormat::Png).unwrap();
    content.into_inner().into()
}

async fn put(server: &Homeserver, content: Bytes) -> MediaId {
    let body = stream::iter([Ok::<_, Infallible>(content)]);
    server.media.upload(&user_id("@alice:a"), named("a.png", "text/html"), body).await.unwrap()
}

/// Reads an image and returns its size.
async fn size_of(mut file: OpenFile) -> (u32, u32) {
    assert_eq!(file.description, named("thumbnail.png", "image/png"));
    let mut content = Vec::new();
    file.content.read_to_end(&mut content).await.unwrap();
    image::load_from_memory_with_format(&content, ImageFormat::Png).unwrap().dimensions()
}

#[tokio::test]
async fn a_thumbnail_is_made_once_and_kept() {
    let world = World::new();
    let server = world.open_with(100_000).await;
    let media_id = put(&server, png(200, 100)).await;
    assert_eq!(size_of(server.media.local_thumbnail(&media_id, SMALL).await.unwrap()).await, (32, 32));
    let server = world.open_with(100_000).await;
    // Without a trace of the original, it can't be made again.
    let original = png(200, 100);
    let is_original = |path: &PathBuf| fs::read(path).unwrap() == original;
    fs::write(files_in(&world.path()).into_iter().find(is_original).unwrap(), vec![0; original.len()]).unwrap();
    let wanted = WantedThumbnail { width: 1, ..SMALL };
    assert_eq!(size_of(server.media.local_thumbnail(&media_id, wanted).await.unwrap()).await, (32, 32));
    let another = WantedThumbnail { width: 90, ..SMALL };
    let refused = server.media.local_thumbnail(&media_id, another).await;
    assert!(matches!(refused, Err(MediaError::NoThumbnail)), "{refused:?}");
}

#[tokio::test]
async fn what_is_no_image_has_no_thumbnail() {
    let world = World::new();
    let server = world.open_with(100_000).await;
    let media_id = put(&server, Bytes::from_static(b"some text")).await;
    let refused = server.media.local_thumbnail(&media_id, SMALL).await;
    assert!(matches!(refused, Err(MediaError::NoThumbnail)), "{refused:?}");
    let refused = server.media.local_thumbnail(&MediaId::parse("nothing").unwrap(), SMALL).await;
    assert!(matches!(refused, Err(MediaError::NotFound)), "{refused:?}");
}

#[tokio::test]
async fn a_file_of_another_server_is_fetched_for_its_thumbnail() {
    let world = World::new();
    world.network.set("b", |request| {
        assert!(request.uri().path().contains("/download/"));
        let body = [b"--abc\r\n\r\n{}\r\n--abc\r\n\r\n", &png(40, 400)[..], b"\r\n--abc--"].concat();
        let response = http::Response::builder().header("content-type", "multipart/mixed; boundary=abc");
        crate::testing::Answer::Raw(response.body(body.into()).unwrap())
    });
    let server = world.open_with(100_000).await;
    let (name, media_id) = (server_name("b"), MediaId::parse("abc").unwrap());
    assert_eq!(size_of(server.media.thumbnail(&name, &media_id, SMALL, WAIT).await.unwrap()).await, (32, 32));
    let wanted = WantedThumbnail { width: 801, ..SMALL };
    assert_eq!(size_of(server.media.thumbnail(&name, &media_id, wanted, WAIT).await.unwrap()).await, (40, 400));
    let of_ours = server.media.local_thumbnail(&media_id, SMALL).await;
    assert!(matches!(of_ours, Err(MediaError::NotFound)), "{of_ours:?}");
}
