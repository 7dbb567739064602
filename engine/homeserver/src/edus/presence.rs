//! `m.presence`

use ruma::api::federation::transactions::edu::PresenceUpdate;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Checks, ENTRIES_MAX, EduRefusal, Parts, Told};

#[derive(Deserialize)]
struct Presence<'a> {
    #[serde(borrow)]
    push: Vec<&'a RawValue>,
}

impl Checks<'_> {
    /// Source: server-server API, "Presence".
    pub(super) async fn presence(&mut self, content: &RawValue) -> Parts {
        let Presence { push } = match serde_json::from_str(content.get()) {
            Ok(presence) => presence,
            Err(error) => return vec![Err(error.into())],
        };
        let mut parts = Parts::new();
        for update in push.into_iter().take(ENTRIES_MAX) {
            parts.push(self.presence_update(update).await);
        }
        parts
    }

    async fn presence_update(&mut self, update: &RawValue) -> Result<Told, EduRefusal> {
        let update: PresenceUpdate = serde_json::from_str(update.get())?;
        let user_id = self.neighbor(update.user_id.as_str()).await?;
        Ok(Told::Presence { user_id, update: Box::new(update) })
    }
}
