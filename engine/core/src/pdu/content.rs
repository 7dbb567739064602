//! What the rules need of `content`, by event type. Nothing here refuses an event: that is for the rules.

use std::sync::Arc;

use super::power_levels::read_power_levels;
use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, get_array, get_object, get_str},
    event::{
        Content, CreateContent, JoinRule, MemberContent, Membership, SignedThirdPartyInvite, ThirdPartyInvite,
        ThirdPartyInviteContent, event_type,
    },
    id::{EventId, UserId},
    room_version::{RoomVersion, RoomVersionRules},
    signing::{decode_base64_array, signed_bytes},
};

pub(super) fn read_content(
    event: &CanonicalJsonObject,
    event_type: &str,
    content: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Content {
    match event_type {
        event_type::CREATE => Content::Create(read_create(content)),
        event_type::MEMBER => Content::Member(read_member(content)),
        event_type::JOIN_RULES => Content::JoinRules(read_join_rule(content)),
        event_type::POWER_LEVELS => Content::PowerLevels(read_power_levels(content, rules).map(Arc::new)),
        event_type::THIRD_PARTY_INVITE => {
            Content::ThirdPartyInvite(ThirdPartyInviteContent { public_keys: read_public_keys(content) })
        }
        event_type::REDACTION => {
            let redacts = get_str(if rules.redacts_in_content { content } else { event }, "redacts");
            Content::Redaction(redacts.and_then(|id| EventId::parse(id).ok()))
        }
        _ => Content::Other,
    }
}

fn read_create(content: &CanonicalJsonObject) -> CreateContent {
    CreateContent {
        room_version: match content.get("room_version") {
            None => Some(RoomVersion::V1),
            Some(id) => id.as_str().and_then(RoomVersion::parse),
        },
        creator: get_str(content, "creator").map(Arc::from),
        additional_creators: match content.get("additional_creators") {
            None => Some(Box::default()),
            Some(creators) => creators.as_array().and_then(|creators| creators.iter().map(read_creator).collect()),
        },
        federate: content.get("m.federate").is_none_or(|federate| federate.as_bool() == Some(true)),
    }
}

/// Additional creators are bound by what holds for `sender` in room version 12, so 255 bytes it is.
fn read_creator(creator: &CanonicalJsonValue) -> Option<UserId> {
    let creator = creator.as_str().filter(|creator| creator.len() <= super::FIELD_LEN_MAX)?;
    UserId::parse(creator).ok()
}

fn read_member(content: &CanonicalJsonObject) -> MemberContent {
    MemberContent {
        membership: get_str(content, "membership").map(|membership| match membership {
            "join" => Membership::Join,
            "invite" => Membership::Invite,
            "leave" => Membership::Leave,
            "ban" => Membership::Ban,
            "knock" => Membership::Knock,
            _ => Membership::Unknown,
        }),
        join_authorised_via_users_server: content
            .get("join_authorised_via_users_server")
            .map(|user| Arc::from(user.as_str().unwrap_or_default())),
        third_party_invite: content.get("third_party_invite").map(read_third_party_invite),
    }
}

fn read_third_party_invite(invite: &CanonicalJsonValue) -> ThirdPartyInvite {
    let Some(signed) = invite.as_object().and_then(|invite| get_object(invite, "signed")) else {
        return ThirdPartyInvite::NoSigned;
    };
    let (Some(mxid), Some(token)) = (get_str(signed, "mxid"), get_str(signed, "token")) else {
        return ThirdPartyInvite::Incomplete;
    };
    let by_server = get_object(signed, "signatures").into_iter().flat_map(CanonicalJsonObject::values);
    let by_key = by_server.filter_map(CanonicalJsonValue::as_object).flatten();
    let signatures = by_key.filter(|(key_id, _)| key_id.starts_with("ed25519:"));
    ThirdPartyInvite::Signed(Arc::new(SignedThirdPartyInvite {
        mxid: mxid.into(),
        token: token.into(),
        signed_bytes: signed_bytes(signed).into(),
        signatures: signatures.filter_map(|(_, signature)| decode_base64_array(signature.as_str()?)).collect(),
    }))
}

fn read_join_rule(content: &CanonicalJsonObject) -> JoinRule {
    match content.get("join_rule").map(CanonicalJsonValue::as_str) {
        None => JoinRule::Invite,
        Some(Some("public")) => JoinRule::Public,
        Some(Some("invite")) => JoinRule::Invite,
        Some(Some("knock")) => JoinRule::Knock,
        Some(Some("restricted")) => JoinRule::Restricted,
        Some(Some("knock_restricted")) => JoinRule::KnockRestricted,
        Some(_) => JoinRule::Other,
    }
}

fn read_public_keys(content: &CanonicalJsonObject) -> Box<[[u8; 32]]> {
    let more = get_array(content, "public_keys").unwrap_or_default();
    let objects = std::iter::once(content).chain(more.iter().filter_map(CanonicalJsonValue::as_object));
    objects.filter_map(|object| decode_base64_array(get_str(object, "public_key")?)).collect()
}

#[cfg(test)]
mod tests {
    use super::read_content;
    use crate::{
        canonical_json::{JsonMode, parse_object},
        event::{Content, CreateContent, JoinRule, MemberContent, Membership, ThirdPartyInvite},
        room_version::RoomVersion,
        signing::encode_base64_url_safe,
    };

    fn read(event_type: &str, content: &str) -> Content {
        let object = parse_object(content.as_bytes(), JsonMode::Strict).unwrap();
        read_content(&object, event_type, &object, RoomVersion::V12.rules())
    }

    fn create(content: &str) -> CreateContent {
        match read("m.room.create", content) {
            Content::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    fn member(content: &str) -> MemberContent {
        match read("m.room.member", content) {
            Content::Member(member) => member,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn create_has_defaults() {
        let absent = create(r#"{"creator":7}"#);
        assert_eq!((absent.room_version, absent.creator, absent.federate), (Some(RoomVersion::V1), None, true));
        assert_eq!(absent.additional_creators.as_deref(), Some(&[][..]));
        for (version, expected) in
            [(r#""11""#, Some(RoomVersion::V11)), (r#""13""#, None), ("11", None), ("null", None)]
        {
            assert_eq!(create(&format!(r#"{{"room_version":{version}}}"#)).room_version, expected, "{version}");
        }
        for (federate, expected) in
            [("true", true), ("false", false), ("null", false), (r#""true""#, false), ("1", false)]
        {
            assert_eq!(create(&format!(r#"{{"m.federate":{federate}}}"#)).federate, expected, "{federate}");
        }
    }

    #[test]
    fn sc_041_additional_creators_are_user_ids() {
        let count = |creators: &str| {
            create(&format!(r#"{{"additional_creators":{creators}}}"#))
                .additional_creators
                .map(|creators| creators.len())
        };
        assert_eq!(count("[]"), Some(0));
        assert_eq!(count(r#"["@a:b","@a:b"]"#), Some(2));
        for bad in ["null", "{}", r#""@a:b""#, r#"["@a:b",7]"#, r#"["a"]"#, r#"["@a"]"#] {
            assert_eq!(count(bad), None, "{bad}");
        }
        assert_eq!(count(&format!(r#"["@{}:b"]"#, "\u{10000}".repeat(63))), Some(1));
        assert_eq!(count(&format!(r#"["@{}:b"]"#, "\u{10000}".repeat(64))), None);
    }

    #[test]
    fn sc_050_membership_need_not_be_a_known_string() {
        for (membership, expected) in [
            (r#""join""#, Some(Membership::Join)),
            (r#""knock""#, Some(Membership::Knock)),
            (r#""Join""#, Some(Membership::Unknown)),
            (r#""""#, Some(Membership::Unknown)),
            ("null", None),
            ("7", None),
        ] {
            assert_eq!(member(&format!(r#"{{"membership":{membership}}}"#)).membership, expected, "{membership}");
        }
        let member = member(r#"{"join_authorised_via_users_server":7}"#);
        assert_eq!((member.membership, member.join_authorised_via_users_server.as_deref()), (None, Some("")));
    }

    #[test]
    fn sc_048_third_party_invite_is_read_as_far_as_it_is_complete() {
        let invite =
            |invite: &str| member(&format!(r#"{{"third_party_invite":{invite}}}"#)).third_party_invite.unwrap();
        assert_eq!(member("{}").third_party_invite, None);
        for bad in ["null", "7", "[]", "{}", r#"{"signed":"x"}"#] {
            assert_eq!(invite(bad), ThirdPartyInvite::NoSigned, "{bad}");
        }
        for bad in ["{}", r#"{"mxid":"@a:b"}"#, r#"{"token":"x"}"#, r#"{"mxid":7,"token":"x"}"#] {
            assert_eq!(invite(&format!(r#"{{"signed":{bad}}}"#)), ThirdPartyInvite::Incomplete, "{bad}");
        }
        let [first, second] = [[1; 64], [2; 64]].map(|bytes| encode_base64_url_safe(&bytes));
        let complete = invite(&format!(
            r#"{{"signed":{{"x":1,"token":"t","mxid":"m","unsigned":{{}},"signatures":{{
                "a":{{"ed25519:1":"{first}","rsa:1":"{first}","ed25519:2":"AA","ed25519:3":7}},"b":{{"ed25519:0":"{second}"}},"c":7
            }}}}}}"#
        ));
        let ThirdPartyInvite::Signed(signed) = complete else { panic!("{complete:?}") };
        assert_eq!((&*signed.mxid, &*signed.token), ("m", "t"));
        assert_eq!(*signed.signed_bytes, *br#"{"mxid":"m","token":"t","x":1}"#);
        assert_eq!(*signed.signatures, [[1; 64], [2; 64]]);
    }

    #[test]
    fn join_rule_is_invite_unless_given() {
        for (content, expected) in [
            ("{}", JoinRule::Invite),
            (r#"{"join_rule":"knock_restricted"}"#, JoinRule::KnockRestricted),
            (r#"{"join_rule":"private"}"#, JoinRule::Other),
            (r#"{"join_rule":null}"#, JoinRule::Other),
        ] {
            assert_eq!(read("m.room.join_rules", content), Content::JoinRules(expected), "{content}");
        }
    }

    #[test]
    fn public_keys_are_those_of_32_bytes() {
        let [first, second] = [[0xfb; 32], [2; 32]].map(|bytes| encode_base64_url_safe(&bytes));
        let content = format!(
            r#"{{"public_key":"{first}","public_keys":[{{"public_key":"{second}"}},{{"public_key":"AA"}},{{}},7]}}"#
        );
        let Content::ThirdPartyInvite(invite) = read("m.room.third_party_invite", &content) else { panic!() };
        assert_eq!(*invite.public_keys, [[0xfb; 32], [2; 32]]);
    }

    #[test]
    fn sc_051_malformed_content_is_never_trouble() {
        for event_type in ["create", "member", "join_rules", "power_levels", "third_party_invite", "redaction"]
            .map(|t| format!("m.room.{t}"))
        {
            for value in ["null", "7", "[]", "{}", r#""x""#, "[[[]]]", r#"{"signed":{"signatures":[]}}"#] {
                for key in
                    ["predecessor", "users", "public_keys", "third_party_invite", "redacts", "additional_creators"]
                {
                    read(&event_type, &format!(r#"{{"{key}":{value}}}"#));
                }
            }
        }
    }
}
