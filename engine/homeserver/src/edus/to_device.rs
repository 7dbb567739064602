//! `m.direct_to_device`

use ravel_core::id::UserId;
use serde_json::value::RawValue;

use super::{Checks, EduRefusal, Told};
use crate::to_device::{DirectToDevice, Messages, ToDeviceMessage};

impl Checks<'_> {
    /// Takes what is for users of this server.
    ///
    /// Source: server-server API, "Send-to-device messaging".
    pub(super) fn direct_to_device(&self, content: &RawValue) -> Result<Told, EduRefusal> {
        let DirectToDevice { sender, event_type, message_id, messages } = serde_json::from_str(content.get())?;
        let sender = self.user(&sender)?;
        let our_name = self.server.server_name.as_str();
        let of_user = |(user_id, contents): (String, _)| Some((UserId::parse(&user_id).ok()?, contents));
        let messages = messages.into_iter().filter_map(of_user);
        let messages: Messages = messages.filter(|(user_id, _)| user_id.server_name() == our_name).collect();
        let message = ToDeviceMessage { sender, event_type, message_id, messages };
        message.check()?;
        Ok(Told::ToDevice(Box::new(message)))
    }
}
