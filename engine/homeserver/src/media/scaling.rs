//! Making images smaller.

use std::{
    fmt,
    fs::File,
    io::{BufReader, Cursor},
};

use image::{
    DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, codecs::jpeg::JpegEncoder,
    imageops::FilterType, metadata::Orientation,
};

/// How an image is made smaller. Source: client-server API, "Thumbnails".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThumbnailMethod {
    /// What is over at two sides is cut off.
    Crop,
    /// The whole image is shown.
    Scale,
}

/// A size that thumbnails have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThumbnailSize {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) method: ThumbnailMethod,
}

/// What comes of an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scaled {
    /// Another image.
    Image { content: Vec<u8>, content_type: &'static str },
    /// The same file serves.
    Unchanged { content_type: &'static str },
}

/// Why there is no smaller image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleError {
    /// It is none, or not of the formats that are read.
    NoImage,
    /// It has too many pixels.
    TooLarge,
}

/// The sizes that are made. Source: client-server API, "Thumbnails".
const SIZES: [ThumbnailSize; 5] = {
    const fn size(width: u32, height: u32, method: ThumbnailMethod) -> ThumbnailSize {
        ThumbnailSize { width, height, method }
    }
    [
        size(32, 32, ThumbnailMethod::Crop),
        size(96, 96, ThumbnailMethod::Crop),
        size(320, 240, ThumbnailMethod::Scale),
        size(640, 480, ThumbnailMethod::Scale),
        size(800, 600, ThumbnailMethod::Scale),
    ]
};

/// The formats that are read, told by their first bytes, whatever the file is said to be. Each more is a decoder more for hostile files.
const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];

/// The most pixels of an image that is decoded, and of each of its sides.
const PIXELS_MAX: u64 = 32 << 20;
const SIDE_MAX: u32 = 1 << 16;

/// The most memory that decoding an image may take, in bytes: 8 for each pixel.
const MEMORY_MAX: u64 = 8 * PIXELS_MAX;

/// Of JPEG, from 1 to 100.
const QUALITY: u8 = 80;

impl fmt::Display for ThumbnailSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            ThumbnailMethod::Crop => "crop",
            ThumbnailMethod::Scale => "scale",
        };
        write!(f, "{}x{} {method}", self.width, self.height)
    }
}

impl ThumbnailSize {
    /// Returns the smallest size that is not smaller than what is wanted; `None` if there is none, and the image has to be shown as large
    /// as it is. An image that is to be cropped to more than the largest such size is shown whole.
    ///
    /// Source: client-server API, "Thumbnails": "Servers MUST NOT return a smaller thumbnail than requested, unless the original content
    /// makes that impossible."
    pub(super) fn for_wanted(width: u32, height: u32, method: ThumbnailMethod) -> Option<Self> {
        let is_enough = |size: &&Self| size.width >= width && size.height >= height;
        let as_wanted = SIZES.iter().find(|size| size.method == method && is_enough(size));
        as_wanted
            .or_else(|| SIZES.iter().find(|size| size.method == ThumbnailMethod::Scale && is_enough(size)))
            .copied()
    }

    /// Returns what an image of some size is scaled to, so that it is no smaller than this in any direction; `None` if it is not larger.
    fn covering(self, width: u32, height: u32) -> Option<(u32, u32)> {
        if width <= self.width || height <= self.height {
            return None;
        }
        let [width, height, own_width, own_height] = [width, height, self.width, self.height].map(u64::from);
        let (width, height) = if own_width * height >= own_height * width {
            (own_width, (height * own_width).div_ceil(width))
        } else {
            ((width * own_height).div_ceil(height), own_height)
        };
        Some((u32::try_from(width).ok()?, u32::try_from(height).ok()?))
    }
}

/// Makes an image of at least some size of a larger one. What comes out has one picture and nothing that was beside it in the file,
/// unless it is a JPEG that is small enough, which stays as it is.
///
/// It takes long, and a few hundred megabytes at the most.
///
/// # Errors
///
/// [`ScaleError`]
pub(super) fn scale(file: File, size: Option<ThumbnailSize>) -> Result<Scaled, ScaleError> {
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|_| ScaleError::NoImage)?;
    let format = reader.format().filter(|format| FORMATS.contains(format)).ok_or(ScaleError::NoImage)?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(SIDE_MAX), Some(SIDE_MAX));
    limits.max_alloc = Some(MEMORY_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| of_decoder(&error))?;
    let (width, height) = decoder.dimensions();
    // Before anything of it is decoded.
    if u64::from(width) * u64::from(height) > PIXELS_MAX || decoder.total_bytes() > MEMORY_MAX {
        return Err(ScaleError::TooLarge);
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let is_turned = matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (width, height) = if is_turned { (height, width) } else { (width, height) };
    let scaled_to = size.and_then(|size| Some((size, size.covering(width, height)?)));
    let is_jpeg = format == ImageFormat::Jpeg;
    if scaled_to.is_none() && is_jpeg {
        return Ok(Scaled::Unchanged { content_type: "image/jpeg" });
    }
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| of_decoder(&error))?;
    image.apply_orientation(orientation);
    if let Some((size, (width, height))) = scaled_to {
        image = match size.method {
            ThumbnailMethod::Crop => image.resize_to_fill(size.width, size.height, FilterType::Triangle),
            ThumbnailMethod::Scale => image.resize_exact(width, height, FilterType::Triangle),
        };
    }
    let mut content = Vec::new();
    let content_type = if is_jpeg {
        let written = JpegEncoder::new_with_quality(&mut content, QUALITY).encode_image(&image.to_rgb8());
        written.map(|()| "image/jpeg")
    } else {
        image.to_rgba8().write_to(&mut Cursor::new(&mut content), ImageFormat::Png).map(|()| "image/png")
    };
    let content_type = content_type.map_err(|error| of_decoder(&error))?;
    Ok(Scaled::Image { content, content_type })
}

fn of_decoder(error: &ImageError) -> ScaleError {
    if matches!(error, ImageError::Limits(_)) { ScaleError::TooLarge } else { ScaleError::NoImage }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use image::{GenericImageView, ImageBuffer, Rgba};

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        // The left half is red.
        let color = |x, _| if x < width / 2 { Rgba([255_u8, 0, 0, 255]) } else { Rgba([0, 0, 255, 255]) };
        let image = DynamicImage::from(ImageBuffer::from_fn(width, height, color));
        let image = if format == ImageFormat::Jpeg { image.to_rgb8().into() } else { image };
        let mut content = Vec::new();
        image.write_to(&mut Cursor::new(&mut content), format).unwrap();
        content
    }

    #[test]
    fn thumbnails_are_never_smaller_than_wanted() {
        use ThumbnailMethod::{Crop, Scale};
        let check = |width, height, method, expected: Option<(u32, u32, ThumbnailMethod)>| {
            let size = ThumbnailSize::for_wanted(width, height, method);
            assert_eq!(
                size.map(|size| (size.width, size.height, size.method)),
                expected,
                "{width} {height} {method:?}"
            );
        };
        check(0, 0, Crop, Some((32, 32, Crop)));
        check(33, 10, Crop, Some((96, 96, Crop)));
        check(97, 10, Crop, Some((320, 240, Scale)));
        check(32, 32, Scale, Some((320, 240, Scale)));
        check(320, 241, Scale, Some((640, 480, Scale)));
        check(800, 600, Scale, Some((800, 600, Scale)));
        check(801, 1, Scale, None);
        check(u32::MAX, u32::MAX, Crop, None);
    }

    #[test]
    fn images_get_smaller_and_never_larger() {
        use ThumbnailMethod::{Crop, Scale};
        let of = |width, height, method| Some(ThumbnailSize { width, height, method });
        for format in FORMATS {
            for (width, height, size, expected) in [
                (400, 200, of(96, 96, Crop), (96, 96)),
                (400, 300, of(320, 240, Scale), (320, 240)),
                (1000, 300, of(320, 240, Scale), (800, 240)),
                (330, 1000, of(320, 240, Scale), (320, 970)),
                (320, 1000, of(320, 240, Scale), (320, 1000)),
                (20, 10, of(32, 32, Crop), (20, 10)),
                (900, 20, None, (900, 20)),
            ] {
                let content = picture(width, height, format);
                let is_unchanged = format == ImageFormat::Jpeg && expected == (width, height);
                match scale(file(&content), size).unwrap() {
                    Scaled::Image { content, content_type } => {
                        let expected_type = if format == ImageFormat::Jpeg { "image/jpeg" } else { "image/png" };
                        assert_eq!((content_type, is_unchanged), (expected_type, false));
                        let image = image::load_from_memory(&content).unwrap();
                        assert_eq!(image.dimensions(), expected, "{format:?} {width} {height}");
                        let Rgba([red, _, blue, _]) = image.get_pixel(1, 1);
                        assert!(red > 200 && blue < 50, "{format:?}");
                    }
                    Scaled::Unchanged { content_type } => {
                        assert_eq!((content_type, is_unchanged), ("image/jpeg", true));
                    }
                }
            }
        }
    }

    /// A PNG that says it has some size, and has no pixels.
    fn hollow_png(width: u32, height: u32) -> Vec<u8> {
        let mut content = picture(1, 1, ImageFormat::Png);
        content[16..20].copy_from_slice(&width.to_be_bytes());
        content[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&content[12..29]);
        content[29..33].copy_from_slice(&checksum.to_be_bytes());
        content
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, byte: &u8| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
        };
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn sc_194_bombs_are_not_decoded() {
        let check = |content: &[u8], expected| {
            assert_eq!(scale(file(content), None), Err(expected), "{:?}", &content[..content.len().min(33)]);
        };
        for (width, height) in [(50_000, 50_000), (1, i32::MAX as u32), (65_537, 1), (8_192, 4_097)] {
            check(&hollow_png(width, height), ScaleError::TooLarge);
        }
        // It says that it is large, and breaks off.
        check(&hollow_png(1_000, 1_000), ScaleError::NoImage);
        // The screen of a GIF may be larger than its pictures.
        let mut gif = picture(1, 1, ImageFormat::Gif);
        gif[6..10].fill(u8::MAX);
        check(&gif, ScaleError::TooLarge);
        for content in [
            &b""[..],
            b"some text",
            b"%!PS-Adobe-3.0 EPSF-3.0",
            b"8BPS\0\x01\0\0\0\0\0\0\0\x03",
            b"II*\0\x08\0\0\0",
            b"\0\0\x01\0\x01\0",
            b"\0\0\0\x1cftypavif",
            b"\xff\x0a\0\0",
            b"BM\0\0\0\0",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff\xe0",
            b"RIFF\0\0\0\0WEBP",
        ] {
            check(content, ScaleError::NoImage);
        }
    }
}
