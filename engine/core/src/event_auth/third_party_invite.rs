//! Rule 5.4.1: an invite that a third-party identifier was invited by.

use ed25519_dalek::{Signature, VerifyingKey};

use super::{StateLookup, ThirdPartyInviteRule, membership};
use crate::{
    event::{Content, Event, Membership, SignedThirdPartyInvite, ThirdPartyInvite, event_type},
    id::UserId,
};

/// How many pairs of key and signature are tried. Two events of the largest size could hold half a million pairs; real ones
/// have one signature and two keys.
const SIGNATURE_CHECKS_MAX: usize = 1024;

/// Rule 5.4.1. Neither the sender's membership nor its power level is asked about.
pub(super) fn check(
    event: &Event,
    target: &UserId,
    third_party_invite: &ThirdPartyInvite,
    state: &(impl StateLookup + ?Sized),
) -> Result<(), ThirdPartyInviteRule> {
    // 5.4.1.1. If target user is banned, reject.
    if membership(state, target.as_str()) == Some(Membership::Ban) {
        return Err(ThirdPartyInviteRule::TargetBanned { target: target.clone() });
    }
    let signed = match third_party_invite {
        // 5.4.1.2. If content.third_party_invite does not have a signed property, reject.
        ThirdPartyInvite::NoSigned => return Err(ThirdPartyInviteRule::NoSigned),
        // 5.4.1.3. If signed does not have mxid and token properties, reject.
        ThirdPartyInvite::Incomplete => return Err(ThirdPartyInviteRule::Incomplete),
        ThirdPartyInvite::Signed(signed) => signed,
    };
    // 5.4.1.4. If mxid does not match state_key, reject.
    if *signed.mxid != *target.as_str() {
        return Err(ThirdPartyInviteRule::OtherUser { mxid: signed.mxid.clone(), target: target.clone() });
    }
    // 5.4.1.5. If there is no m.room.third_party_invite event with state_key matching token, reject.
    let Some(invite) = state.state_event(event_type::THIRD_PARTY_INVITE, &signed.token) else {
        return Err(ThirdPartyInviteRule::UnknownToken { token: signed.token.clone() });
    };
    // 5.4.1.6. If sender does not match sender of the m.room.third_party_invite, reject.
    if event.sender != invite.sender {
        return Err(ThirdPartyInviteRule::OtherSender {
            sender: event.sender.clone(),
            invite_sender: invite.sender.clone(),
        });
    }
    // 5.4.1.7. If any signature in signed matches any public key in the m.room.third_party_invite event, allow.
    // 5.4.1.8. Otherwise, reject.
    if is_signed_by_any_key(signed, invite) { Ok(()) } else { Err(ThirdPartyInviteRule::NoMatchingSignature) }
}

fn is_signed_by_any_key(signed: &SignedThirdPartyInvite, invite: &Event) -> bool {
    let Content::ThirdPartyInvite(invite) = &invite.content else { return false };
    let keys = invite.public_keys.iter();
    let pairs = keys.flat_map(|key| signed.signatures.iter().map(move |signature| (key, signature)));
    pairs.take(SIGNATURE_CHECKS_MAX).any(|(key, signature)| {
        VerifyingKey::from_bytes(key)
            .is_ok_and(|key| key.verify_strict(&signed.signed_bytes, &Signature::from_bytes(signature)).is_ok())
    })
}
