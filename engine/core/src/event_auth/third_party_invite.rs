//! Rule 5.4.1: an invite that a third-party identifier was invited by.

use ed25519_dalek::{Signature, VerifyingKey};

use super::ThirdPartyInviteRule;
use crate::{
    event::{Membership, SignedThirdPartyInvite, ThirdPartyInvite},
    graph::{EventView, NameIndex},
};

/// How many pairs of key and signature are tried. Two events of the largest size could hold half a million pairs; real ones
/// have one signature and two keys.
const SIGNATURE_CHECKS_MAX: usize = 1024;

/// Rule 5.4.1. Neither the sender's membership nor its power level is asked about. `invite` is the event that the token of
/// `third_party_invite` names in the state.
pub(super) fn check(
    event: EventView<'_>,
    target: NameIndex,
    target_membership: Option<Membership>,
    third_party_invite: &ThirdPartyInvite,
    invite: Option<EventView<'_>>,
) -> Result<(), ThirdPartyInviteRule> {
    let graph = event.graph();
    // 5.4.1.1. If target user is banned, reject.
    if target_membership == Some(Membership::Ban) {
        return Err(ThirdPartyInviteRule::TargetBanned { target: graph.user_id(target) });
    }
    let signed = match third_party_invite {
        // 5.4.1.2. If content.third_party_invite does not have a signed property, reject.
        ThirdPartyInvite::NoSigned => return Err(ThirdPartyInviteRule::NoSigned),
        // 5.4.1.3. If signed does not have mxid and token properties, reject.
        ThirdPartyInvite::Incomplete => return Err(ThirdPartyInviteRule::Incomplete),
        ThirdPartyInvite::Signed(signed) => signed,
    };
    // 5.4.1.4. If mxid does not match state_key, reject.
    if *signed.mxid != *graph.name(target) {
        return Err(ThirdPartyInviteRule::OtherUser { mxid: signed.mxid.clone(), target: graph.user_id(target) });
    }
    // 5.4.1.5. If there is no m.room.third_party_invite event with state_key matching token, reject.
    let Some(invite) = invite else {
        return Err(ThirdPartyInviteRule::UnknownToken { token: signed.token.clone() });
    };
    // 5.4.1.6. If sender does not match sender of the m.room.third_party_invite, reject.
    if event.sender() != invite.sender() {
        return Err(ThirdPartyInviteRule::OtherSender { sender: event.sender_id(), invite_sender: invite.sender_id() });
    }
    // 5.4.1.7. If any signature in signed matches any public key in the m.room.third_party_invite event, allow.
    // 5.4.1.8. Otherwise, reject.
    if is_signed_by_any_key(signed, invite) { Ok(()) } else { Err(ThirdPartyInviteRule::NoMatchingSignature) }
}

fn is_signed_by_any_key(signed: &SignedThirdPartyInvite, invite: EventView<'_>) -> bool {
    let Some(invite) = invite.third_party_invite() else { return false };
    let keys = invite.public_keys.iter();
    let pairs = keys.flat_map(|key| signed.signatures.iter().map(move |signature| (key, signature)));
    pairs.take(SIGNATURE_CHECKS_MAX).any(|(key, signature)| {
        VerifyingKey::from_bytes(key)
            .is_ok_and(|key| key.verify_strict(&signed.signed_bytes, &Signature::from_bytes(signature)).is_ok())
    })
}
