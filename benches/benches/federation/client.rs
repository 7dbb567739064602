//! A local user.

use std::collections::BTreeSet;

use ravel_core::room_version::RoomVersion;
use serde_json::{Value, json};

use crate::ravel::Ravel;

/// A client with an access token.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub(crate) async fn register(ravel: &Ravel) -> Self {
        let http = reqwest::Client::new();
        let body = json!({ "username": "alice", "password": "secret", "auth": { "type": "m.login.dummy" } });
        let answer = http.post(ravel.url("/_matrix/client/v3/register")).body(body.to_string()).send().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { http, base: ravel.url("/_matrix/client/v3"), token }
    }

    pub(crate) async fn create_room(&self, version: RoomVersion) -> String {
        let body = json!({ "preset": "public_chat", "room_version": version.as_str() });
        let request = self.http.post(format!("{}/createRoom", self.base)).body(body.to_string());
        self.answer(request).await["room_id"].as_str().unwrap().to_owned()
    }

    /// Returns where a sync that begins now goes on from.
    pub(crate) async fn sync_position(&self) -> String {
        self.sync(None).await["next_batch"].as_str().unwrap().to_owned()
    }

    /// Syncs until these events were shown.
    pub(crate) async fn wait_for(&self, mut since: String, mut event_ids: BTreeSet<String>) {
        while !event_ids.is_empty() {
            let news = self.sync(Some(&since)).await;
            since = news["next_batch"].as_str().unwrap().to_owned();
            let rooms = news["rooms"]["join"].as_object().into_iter().flat_map(|rooms| rooms.values());
            for event in rooms.flat_map(|room| room["timeline"]["events"].as_array().unwrap()) {
                event_ids.remove(event["event_id"].as_str().unwrap());
            }
        }
    }

    async fn sync(&self, since: Option<&str>) -> Value {
        let mut url = format!("{}/sync?timeout=10000", self.base);
        if let Some(since) = since {
            url.push_str("&since=");
            url.push_str(since);
        }
        self.answer(self.http.get(url)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Value {
        let answer = request.bearer_auth(&self.token).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}
