//! `m.typing`

use ravel_core::id::RoomId;
use ruma::api::federation::transactions::edu::TypingContent;
use serde_json::value::RawValue;

use super::{Checks, EduRefusal, Told};

impl Checks<'_> {
    /// Source: server-server API, "Typing Notifications".
    pub(super) async fn typing(&mut self, content: &RawValue) -> Result<Told, EduRefusal> {
        let content: TypingContent = serde_json::from_str(content.get())?;
        let room_id = RoomId::parse(content.room_id.as_str())?;
        self.check_room(&room_id).await?;
        let user_id = self.member_of(&room_id, content.user_id.as_str()).await?;
        Ok(Told::Typing { room_id, user_id, is_typing: content.typing })
    }
}
