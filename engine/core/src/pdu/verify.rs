//! Signatures and content hash of a received event ("Validating hashes and signatures on received events").

use std::sync::Arc;

use super::{POLICY_KEY_ID, ParsedPdu, SignatureError, VerifiedPdu};
use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, get_object, get_str},
    event::{Content, Event, Membership, ThirdPartyInvite},
    id::UserId,
    redaction::redact,
    room_version::{EventIdFormat, RoomVersionRules},
    signing::{KeySource, content_hash, decode_base64, decode_base64_array},
};

pub(super) fn verify(pdu: ParsedPdu, keys: &impl KeySource, now_ms: i64) -> Result<VerifiedPdu, SignatureError> {
    let content_hash_matched = content_hash_matches(&pdu.object);
    let pdu = if content_hash_matched { pdu } else { redacted(pdu)? };

    // From here on only the form that will be used counts. An invite with a `third_party_invite` needs no signature of the
    // sender's server; if that part is gone because the content hash was wrong, it is an ordinary invite and does.
    let check = SignatureCheck { pdu: &pdu, keys, now_ms };
    for server in needed_servers(&pdu.event, &pdu.rules) {
        check.signed_by(server)?;
    }
    let authorising_user_signed = authorising_user(&pdu.event, &pdu.rules)
        .map(|user_id| UserId::parse(user_id).is_ok_and(|user_id| check.signed_by(user_id.server_name()).is_ok()));

    Ok(VerifiedPdu {
        rules: pdu.rules,
        event: Arc::new(pdu.event),
        json: pdu.json.into(),
        content_hash_matched,
        authorising_user_signed,
    })
}

pub(super) fn wanted_keys(pdu: &ParsedPdu) -> impl Iterator<Item = (&str, &str)> {
    let authorising_server =
        authorising_user(&pdu.event, &pdu.rules).and_then(|user_id| user_id.split_once(':')).map(|(_, server)| server);
    // The sender's server is asked for even where its signature is not needed: the event may yet turn out to be redacted.
    let servers = [Some(pdu.event.sender.server_name()), id_server(&pdu.event, &pdu.rules), authorising_server];
    let mut seen: Vec<&str> = Vec::new();
    for server in servers.into_iter().flatten() {
        if !seen.contains(&server) {
            seen.push(server);
        }
    }
    seen.into_iter().flat_map(|server| ed25519_signatures(&pdu.object, server).map(move |(key_id, _)| (server, key_id)))
}

/// Returns the servers that must have signed an event.
fn needed_servers<'a>(event: &'a Event, rules: &RoomVersionRules) -> impl Iterator<Item = &'a str> {
    let sender_server = event.sender.server_name();
    let of_sender = (!is_third_party_invite(event)).then_some(sender_server);
    let of_id = id_server(event, rules).filter(|server| *server != sender_server);
    of_sender.into_iter().chain(of_id)
}

/// "Room versions 1 and 2 also require that a signature is present from the domain in the `event_id`".
fn id_server<'a>(event: &'a Event, rules: &RoomVersionRules) -> Option<&'a str> {
    if rules.event_id_format == EventIdFormat::Carried { event.event_id.server_name() } else { None }
}

/// Whether this is an invite made from a third-party invite, complete enough that the rules check its own signature.
fn is_third_party_invite(event: &Event) -> bool {
    let Content::Member(member) = &event.content else { return false };
    member.membership == Some(Membership::Invite)
        && matches!(member.third_party_invite, Some(ThirdPartyInvite::Signed(_)))
}

fn authorising_user<'a>(event: &'a Event, rules: &RoomVersionRules) -> Option<&'a str> {
    match &event.content {
        Content::Member(member) if rules.restricted_join_rule => member.join_authorised_via_users_server.as_deref(),
        _ => None,
    }
}

fn content_hash_matches(object: &CanonicalJsonObject) -> bool {
    let claimed = get_object(object, "hashes").and_then(|hashes| decode_base64(get_str(hashes, "sha256")?));
    claimed.is_some_and(|claimed| claimed == content_hash(object))
}

/// "the receiving server should use the redacted copy it calculated rather than the full copy it received".
fn redacted(pdu: ParsedPdu) -> Result<ParsedPdu, SignatureError> {
    Ok(ParsedPdu::from_object(redact(pdu.object, &pdu.rules.redaction), &pdu.rules)?)
}

fn ed25519_signatures<'a>(
    object: &'a CanonicalJsonObject,
    server: &str,
) -> impl Iterator<Item = (&'a str, &'a CanonicalJsonValue)> {
    let of_server = get_object(object, "signatures").and_then(|signatures| get_object(signatures, server));
    let all = of_server.into_iter().flatten().map(|(key_id, signature)| (&**key_id, signature));
    // "the policy server key is not expected to be published and therefore should be skipped at this stage".
    all.filter(|(key_id, _)| key_id.starts_with("ed25519:") && *key_id != POLICY_KEY_ID)
}

struct SignatureCheck<'a, K> {
    pdu: &'a ParsedPdu,
    keys: &'a K,
    now_ms: i64,
}

impl<K: KeySource> SignatureCheck<'_, K> {
    /// Checks that a server has signed the event: "If a signature is from an unknown or expired key, it is skipped"; of the
    /// others there must be one, and all must be valid.
    fn signed_by(&self, server: &str) -> Result<(), SignatureError> {
        let mut signed = false;
        for (key_id, signature) in ed25519_signatures(&self.pdu.object, server) {
            let Some(published) = self.keys.verify_key(server, key_id) else { continue };
            if !published.counts_at(self.pdu.event.origin_server_ts_ms, self.now_ms, &self.pdu.rules) {
                continue;
            }
            let valid = signature
                .as_str()
                .and_then(decode_base64_array)
                .is_some_and(|signature| published.key.verify(&self.pdu.signed_bytes, &signature).is_ok());
            if !valid {
                return Err(SignatureError::Invalid { server: server.into(), key_id: key_id.into() });
            }
            signed = true;
        }
        if signed { Ok(()) } else { Err(SignatureError::Missing { server: server.into() }) }
    }
}
