//! `multipart/mixed`, the form in which other servers give files: what is known of the file, and the file.
//!
//! Source: server-server API, "GET /_matrix/federation/v1/media/download/{mediaId}"; RFC 2046, section 5.1.

use std::collections::BTreeMap;

use bytes::Bytes;
use memchr::memmem;
use ruma::http_headers::ContentDisposition;
use serde::de::IgnoredAny;

use super::Description;

/// The second part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A file.
    File(Bytes, Description),
    /// Where the file is to be had.
    Location(String),
}

/// The longest boundary. Source: RFC 2046, section 5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;

/// The most bytes of what is around a file: headers, what is known of it, boundaries.
pub(super) const AROUND_FILE_BYTES_MAX: usize = 16 << 10;

/// The most headers of a part.
const HEADERS_MAX: usize = 32;

/// Reads an answer, which has to have exactly two parts.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn second_of_two_parts(content_type: &str, body: &Bytes) -> Result<Part, &'static str> {
    let delimiter = format!("\r\n--{}", boundary(content_type).ok_or("it has no parts")?);
    let finder = memmem::Finder::new(&delimiter);
    let split = |bytes: &Bytes| {
        let at = finder.find(bytes)?;
        Some((bytes.slice(..at), bytes.slice(at + delimiter.len()..)))
    };
    // The first boundary may be at the very beginning, without a line before it.
    let is_at_beginning = delimiter.get(2..).is_some_and(|first| body.starts_with(first.as_bytes()));
    let parts =
        if is_at_beginning { body.slice(delimiter.len() - 2..) } else { split(body).ok_or("it has no parts")?.1 };
    let (metadata, rest) = split(&next_line(&parts).ok_or("it has no parts")?).ok_or("it has one part")?;
    let (file, end) = split(&next_line(&rest).ok_or("it has one part")?).ok_or("its second part has no end")?;
    // Some servers leave out the two hyphens that are to be after the last boundary.
    if !(end.starts_with(b"--") || end.trim_ascii().is_empty()) || finder.find(&end).is_some() {
        return Err("it has more than two parts");
    }
    let (_, metadata) = headers_and_content(&metadata)?;
    serde_json::from_slice::<BTreeMap<String, IgnoredAny>>(&metadata)
        .map_err(|_| "its first part is no JSON object")?;
    read_file(&file)
}

fn read_file(part: &Bytes) -> Result<Part, &'static str> {
    let (headers, content) = headers_and_content(part)?;
    let (mut content_type, mut disposition, mut location) = (None, None, None);
    let headers = std::str::from_utf8(&headers).map_err(|_| "a header is no text")?;
    for (index, line) in headers.split_terminator("\r\n").enumerate() {
        let (name, value) = line.split_once(':').filter(|_| index < HEADERS_MAX).ok_or("it has bad headers")?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "content-type" => &mut content_type,
            "content-disposition" => &mut disposition,
            "location" => &mut location,
            _ => continue,
        };
        if slot.replace(value.trim()).is_some() {
            return Err("a header is there twice");
        }
    }
    Ok(match location {
        Some(location) => Part::Location(location.to_owned()),
        None => Part::File(content, described(content_type, disposition)),
    })
}

/// Returns what headers tell of a file, as far as it can be used.
pub(super) fn described(content_type: Option<&str>, disposition: Option<&str>) -> Description {
    let disposition = disposition.and_then(|value| value.parse::<ContentDisposition>().ok());
    let file_name = disposition.and_then(|disposition| disposition.filename);
    Description { content_type: content_type.map(str::to_owned), file_name }.usable()
}

/// Returns the boundary that a content type names.
fn boundary(content_type: &str) -> Option<&str> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    // A boundary has neither quotation marks nor semicolons.
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let boundary = boundary.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(boundary);
    let is_valid = boundary.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte));
    (is_valid && (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())).then_some(boundary)
}

/// Returns what is after the line of a boundary, which may end in white space.
fn next_line(bytes: &Bytes) -> Option<Bytes> {
    let at = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let rest = bytes.slice(at..);
    rest.starts_with(b"\r\n").then(|| rest.slice(2..))
}

fn headers_and_content(part: &Bytes) -> Result<(Bytes, Bytes), &'static str> {
    if part.starts_with(b"\r\n") {
        return Ok((Bytes::new(), part.slice(2..)));
    }
    let head = part.slice(..part.len().min(AROUND_FILE_BYTES_MAX));
    let at = memmem::find(&head, b"\r\n\r\n").ok_or("a part's headers have no end")?;
    Ok((part.slice(..at + 2), part.slice(at + 4..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/mixed; boundary=abc";

    fn read(content_type: &str, body: &str) -> Result<Part, &'static str> {
        second_of_two_parts(content_type, &Bytes::copy_from_slice(body.as_bytes()))
    }

    fn file(content: &'static str, content_type: Option<&str>, file_name: Option<&str>) -> Result<Part, &'static str> {
        let [content_type, file_name] = [content_type, file_name].map(|text| text.map(str::to_owned));
        Ok(Part::File(Bytes::from_static(content.as_bytes()), Description { content_type, file_name }))
    }

    #[test]
    fn answers_of_known_servers_are_read() {
        let body = "--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\nContent-Type: text/plain\r\n\
                    Content-Disposition: inline; filename=\"a b\"\r\n\r\nsome\r\n--ab\r\n\r\n\r\n--abc--\r\n";
        let expected = file("some\r\n--ab\r\n\r\n", Some("text/plain"), Some("a b"));
        assert_eq!(read(TYPE, body), expected);
        assert_eq!(read("Multipart/Mixed ; x=y; Boundary=\"abc\"", body), expected);
        // A line before the first boundary, no headers, white space after boundaries, and no hyphens after the last one.
        let body = "\r\n--abc \r\n\r\n{\"a\":1}\r\n--abc\t\r\n\r\n\r\n--abc";
        assert_eq!(read(TYPE, body), file("", None, None));
        let body = "\r\n--abc\r\n\r\n{}\r\n--abc\r\nlocation: https://b/c\r\n\r\n\r\n--abc--";
        assert_eq!(read(TYPE, body), Ok(Part::Location("https://b/c".to_owned())));
    }

    #[test]
    fn sc_202_what_has_not_exactly_two_parts_is_refused() {
        let many = "\r\n--abc\r\n\r\n{}".repeat(100_000);
        for body in [
            "",
            "some text",
            "--abc",
            "--abc--",
            "--abc\r\n\r\n{}\r\n--abc--",
            "--abc\r\n\r\n{}\r\n--abc\r\n\r\nsome text",
            "--abc\r\n\r\n{}\r\n--abc\r\n\r\nsome text\r\n--abc\r\n\r\nmore\r\n--abc--",
            "--abc\r\n\r\n{}\r\n--abc\r\n\r\nsome text\r\n--abc--\r\n--abc\r\n\r\nmore\r\n--abc--",
            "--abc\r\n\r\nno JSON\r\n--abc\r\n\r\nsome text\r\n--abc--",
            "--abc\r\n\r\n[]\r\n--abc\r\n\r\nsome text\r\n--abc--",
            "--abc\r\n\r\n{}\r\n--abc\r\nContent-Type: a/b\r\n--abc--",
            "--abc\r\n\r\n{}\r\n--abc\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\nsome text\r\n--abc--",
            "--abc\r\n\r\n{}\r\n--abc\r\nnonsense\r\n\r\nsome text\r\n--abc--",
            &many,
        ] {
            assert!(read(TYPE, body).is_err(), "{body:.100}");
        }
        let good = "--abc\r\n\r\n{}\r\n--abc\r\n\r\nsome text\r\n--abc--";
        assert!(read(TYPE, good).is_ok());
        let long = format!("multipart/mixed; boundary={}", "a".repeat(71));
        for content_type in [
            "",
            "text/plain",
            "multipart/mixed",
            "multipart/mixed; boundary=",
            "multipart/mixed; boundary=abcd",
            "multipart/form-data; boundary=abc",
            "multipart/mixed; boundary=a\u{e4}c",
            long.as_str(),
        ] {
            assert!(read(content_type, good).is_err(), "{content_type}");
        }
    }
}
