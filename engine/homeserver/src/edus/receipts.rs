//! `m.receipt`

use std::collections::BTreeMap;

use ravel_core::id::RoomId;
use ruma::api::federation::transactions::edu::ReceiptData;
use serde_json::value::RawValue;

use super::{Checks, ENTRIES_MAX, EduRefusal, Parts, Told};

/// By room, type and user.
type Receipts<'a> = BTreeMap<String, BTreeMap<String, &'a RawValue>>;

impl Checks<'_> {
    /// Source: server-server API, "Receipts". Others than `m.read` are private: no server sends those of its users.
    pub(super) async fn receipts(&mut self, content: &RawValue) -> Parts {
        let rooms: Receipts<'_> = match serde_json::from_str(content.get()) {
            Ok(rooms) => rooms,
            Err(error) => return vec![Err(error.into())],
        };
        let mut parts = Parts::new();
        for (room_id, types) in rooms {
            let Some(read) = types.get("m.read").filter(|_| parts.len() < ENTRIES_MAX) else { continue };
            let room_id = match self.room_of_receipts(&room_id).await {
                Ok(room_id) => room_id,
                Err(refusal) => {
                    parts.push(Err(refusal));
                    continue;
                }
            };
            match serde_json::from_str::<BTreeMap<String, &RawValue>>(read.get()) {
                Ok(users) => {
                    for (user_id, receipt) in users.into_iter().take(ENTRIES_MAX - parts.len()) {
                        parts.push(self.receipt(&room_id, &user_id, receipt).await);
                    }
                }
                Err(error) => parts.push(Err(error.into())),
            }
        }
        parts
    }

    async fn room_of_receipts(&mut self, room_id: &str) -> Result<RoomId, EduRefusal> {
        let room_id = RoomId::parse(room_id)?;
        self.check_room(&room_id).await?;
        Ok(room_id)
    }

    async fn receipt(&mut self, room_id: &RoomId, user_id: &str, receipt: &RawValue) -> Result<Told, EduRefusal> {
        let user_id = self.member_of(room_id, user_id).await?;
        let ReceiptData { data, event_ids, .. } = serde_json::from_str(receipt.get())?;
        let event_id = event_ids.into_iter().next().ok_or(EduRefusal::NoEvent)?;
        Ok(Told::Read { room_id: room_id.clone(), user_id, event_id, receipt: data })
    }
}
