//! `m.device_list_update` and `m.signing_key_update`: that something has changed is all that is believed. What the devices are is asked
//! for when somebody wants to know, so that a server can't make this one ask again and again.

use ruma::api::federation::transactions::edu::{DeviceListUpdateContent, SigningKeyUpdateContent};
use serde_json::value::RawValue;

use super::{Checks, EduRefusal, Told};

impl Checks<'_> {
    /// Source: server-server API, "Device Management".
    pub(super) async fn device_list_update(&mut self, content: &RawValue) -> Result<Told, EduRefusal> {
        let content: DeviceListUpdateContent = serde_json::from_str(content.get())?;
        Ok(Told::DevicesChanged { user_id: self.neighbor(content.user_id.as_str()).await? })
    }

    /// Source: server-server API, "End-to-End Encryption".
    pub(super) async fn signing_key_update(&mut self, content: &RawValue) -> Result<Told, EduRefusal> {
        let content: SigningKeyUpdateContent = serde_json::from_str(content.get())?;
        Ok(Told::DevicesChanged { user_id: self.neighbor(content.user_id.as_str()).await? })
    }
}
