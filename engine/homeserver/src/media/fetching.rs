//! Files of other servers.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{
    Request, Response, StatusCode, Uri,
    header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName},
    uri::Scheme,
};
use ravel_core::id::ServerName;

use super::{
    Description, Media, MediaError, MediaId, OpenFile,
    multipart::{AROUND_FILE_BYTES_MAX, Part, described, second_of_two_parts},
    records::{FileRecord, Key},
};
use crate::{
    federation::{FederationError, RemoteError, SendOptions, get_following},
    network::{NetworkError, RequestLimits},
};

/// How long a file is waited for that is not uploaded yet, at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a file may take besides.
const TRANSFER_TIME_MAX: Duration = Duration::from_secs(120);

/// How many files are fetched at once. Each is in memory until it is on the disk.
pub(super) const FETCHES_MAX: usize = 8;

/// A file as another server gave it.
type Fetched = (Bytes, Description);

impl Media {
    /// Opens a file, of whichever server it is. One of another server is fetched if it is not here yet, once for all who ask for it
    /// meanwhile, and kept.
    ///
    /// `wait` is how long somebody wants to wait for a file that is not uploaded yet.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotYetUploaded`, `RemoteTooLarge`, `Federation` and `Answer` if it can't be had of the other server, and when log or
    /// folder can't be read or written.
    pub async fn get(&self, server: &ServerName, media_id: &MediaId, wait: Duration) -> Result<OpenFile, MediaError> {
        if !self.0.client.allows(server) {
            return Err(FederationError::Denied.into());
        }
        if *server == *self.0.client.our_name() {
            return self.local(media_id).await;
        }
        let key = Key::of_file(server, media_id);
        if let Some(file) = self.kept(&key).await? {
            return Ok(file);
        }
        self.0.fetches.run(&key, || self.clone().fetch(server.clone(), media_id.clone(), wait).boxed()).await?;
        self.kept(&key).await?.ok_or(MediaError::NotFound)
    }

    async fn fetch(self, server: ServerName, media_id: MediaId, wait: Duration) -> Result<(), MediaError> {
        // It may have been fetched since it was looked for.
        let key = Key::of_file(&server, &media_id);
        if self.kept(&key).await?.is_some() {
            return Ok(());
        }
        let _permit = self.0.fetch_permits.acquire().await;
        let (content, description) = self.ask(&server, &media_id, wait.min(WAIT_MAX)).await?;
        if content.len() as u64 > self.file_bytes_max() {
            return Err(MediaError::RemoteTooLarge);
        }
        let mut file = self.0.files.begin().await?;
        file.write(&content).await?;
        let kept = self.0.files.keep(file).await?;
        let record = FileRecord::new(kept, description, None, self.0.clock.now_ms());
        self.put_record(&key, &record).await
    }

    /// Source: server-server API, "GET /_matrix/federation/v1/media/download/{mediaId}".
    async fn ask(&self, server: &ServerName, media_id: &MediaId, wait: Duration) -> Result<Fetched, MediaError> {
        let path = format!("/_matrix/federation/v1/media/download/{media_id}?timeout_ms={}", wait.as_millis());
        let options = SendOptions { limits: self.limits(wait), ..SendOptions::default() };
        let answer = match self.0.client.send_raw(server, request(path)?, options).await {
            Err(FederationError::Remote(error)) if is_unknown_path(&error) => {
                return self.ask_unsigned(server, media_id, wait).await;
            }
            answer => answer.map_err(of_server)?,
        };
        let content_type = header(&answer, &CONTENT_TYPE).unwrap_or_default();
        match second_of_two_parts(content_type, answer.body()).map_err(MediaError::Answer)? {
            Part::File(content, description) => Ok((content, description)),
            Part::Location(location) => self.follow(&location, wait).await,
        }
    }

    /// Asks a server that does not know the signed request yet. It may not redirect, as it is not told that it may.
    ///
    /// Source: client-server API, "GET /_matrix/media/v3/download/{serverName}/{mediaId}".
    async fn ask_unsigned(
        &self,
        server: &ServerName,
        media_id: &MediaId,
        wait: Duration,
    ) -> Result<Fetched, MediaError> {
        // The brackets of IPv6 addresses.
        let name = server.as_str().replace('[', "%5B").replace(']', "%5D");
        let timeout_ms = wait.as_millis();
        let path = format!("/_matrix/media/v3/download/{name}/{media_id}?allow_remote=false&timeout_ms={timeout_ms}");
        let options = SendOptions { limits: self.limits(wait), ..SendOptions::default() };
        let answer = self.0.client.send_unsigned(server, request(path)?, options).await.map_err(of_server)?;
        Ok(whole(answer))
    }

    /// Fetches a file from where its server says that it is. It gets no signature and no token.
    async fn follow(&self, location: &str, wait: Duration) -> Result<Fetched, MediaError> {
        let refused = MediaError::Answer("it leads to no https address");
        let uri: Uri = location.parse().map_err(|_| refused.clone())?;
        let has_user = uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let web = self.0.client.web().filter(|_| uri.scheme() == Some(&Scheme::HTTPS) && !has_user).ok_or(refused)?;
        let answer = get_following(&*web, uri, self.limits(wait)).await;
        let answer = answer.map_err(|error| of_server(error.into()))?;
        match answer.status() {
            StatusCode::OK => Ok(whole(answer)),
            _ => Err(MediaError::Answer("there is no file where it leads to")),
        }
    }

    fn limits(&self, wait: Duration) -> RequestLimits {
        let bytes_max = usize::try_from(self.file_bytes_max()).unwrap_or(usize::MAX);
        RequestLimits { time: wait + TRANSFER_TIME_MAX, answer_bytes: bytes_max.saturating_add(AROUND_FILE_BYTES_MAX) }
    }
}

fn request(path: String) -> Result<Request<Bytes>, MediaError> {
    Request::get(path).body(Bytes::new()).map_err(|_| FederationError::Request.into())
}

fn header<'a>(answer: &'a Response<Bytes>, name: &HeaderName) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Reads an answer that is the file.
fn whole(answer: Response<Bytes>) -> Fetched {
    let description = described(header(&answer, &CONTENT_TYPE), header(&answer, &CONTENT_DISPOSITION));
    (answer.into_body(), description)
}

fn is_unknown_path(error: &RemoteError) -> bool {
    match error.errcode.as_deref() {
        Some(errcode) => errcode == "M_UNRECOGNIZED",
        None => error.status == StatusCode::NOT_FOUND,
    }
}

/// Tells what it means for a file that there is no answer, or an error.
fn of_server(error: FederationError) -> MediaError {
    match &error {
        FederationError::Network(NetworkError::AnswerTooLarge { .. }) => MediaError::RemoteTooLarge,
        FederationError::Remote(RemoteError { status, errcode, .. }) => match errcode.as_deref() {
            Some("M_TOO_LARGE") => MediaError::RemoteTooLarge,
            Some("M_NOT_YET_UPLOADED") => MediaError::NotYetUploaded,
            _ if *status == StatusCode::NOT_FOUND => MediaError::NotFound,
            _ => error.into(),
        },
        _ => error.into(),
    }
}
