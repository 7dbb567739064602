//! The event ids of a room, in 32 bytes where they are hashes.

use hashbrown::HashTable;

use super::{
    EventIndex,
    column::{Arena, Column, Span},
    names::hash_of_bytes,
};
use crate::{id::EventId, signing::Base64Alphabet};

/// The ids by number, and the numbers by id.
#[derive(Debug, Default)]
pub(super) struct EventIds {
    ids: Column<StoredId>,
    /// Those that are not hashes: the ids of room versions 1 and 2.
    texts: Arena<u8>,
    by_id: HashTable<EventIndex>,
}

/// An id in 33 bytes: an enum would have 36.
#[derive(Clone, Copy, Debug)]
struct StoredId {
    spelling: Spelling,
    /// The hash, or the span of the text in the first eight bytes.
    bytes: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Standard,
    UrlSafe,
    Text,
}

impl StoredId {
    fn of_hash(alphabet: Base64Alphabet, bytes: [u8; 32]) -> Self {
        let spelling = match alphabet {
            Base64Alphabet::Standard => Spelling::Standard,
            Base64Alphabet::UrlSafe => Spelling::UrlSafe,
        };
        Self { spelling, bytes }
    }

    fn of_text(span: Span) -> Self {
        let mut bytes = [0; 32];
        let numbers = span.start.to_le_bytes().into_iter().chain(span.len.to_le_bytes());
        bytes.iter_mut().zip(numbers).for_each(|(byte, number)| *byte = number);
        Self { spelling: Spelling::Text, bytes }
    }

    /// Returns the alphabet of a hash, or where the text is.
    fn spelled(&self) -> Result<Base64Alphabet, Span> {
        let number = |place: usize| {
            let bytes = self.bytes.get(place..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        match self.spelling {
            Spelling::Standard => Ok(Base64Alphabet::Standard),
            Spelling::UrlSafe => Ok(Base64Alphabet::UrlSafe),
            Spelling::Text => Err(Span { start: number(0), len: number(4) }),
        }
    }
}

/// The characters of an id that is a hash.
const HASH_ID_LEN: usize = 44;

/// An id, spelled out.
pub(super) enum IdText<'a> {
    Hash([u8; HASH_ID_LEN]),
    Text(&'a [u8]),
}

impl IdText<'_> {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Hash(bytes) => bytes,
            Self::Text(bytes) => bytes,
        }
    }
}

impl EventIds {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn index_of(&self, event_id: &EventId) -> Option<EventIndex> {
        let wanted = Spelled::of(event_id);
        self.by_id.find(wanted.hash(), |index| self.is(*index, &wanted)).copied()
    }

    /// Gives an id that is not there the next number; `None` if there is none left.
    pub(super) fn push(&mut self, event_id: &EventId) -> Option<EventIndex> {
        let index = EventIndex::from_usize(self.ids.len())?;
        let (hash, stored) = self.stored(event_id)?;
        self.ids.push(stored);
        self.find_by_id(hash, index);
        Some(index)
    }

    fn stored(&mut self, event_id: &EventId) -> Option<(u64, StoredId)> {
        let spelled = Spelled::of(event_id);
        let hash = spelled.hash();
        let stored = match spelled {
            Spelled::Hash(alphabet, bytes) => StoredId::of_hash(alphabet, bytes),
            Spelled::Text(text) => StoredId::of_text(self.texts.store(text.as_bytes())?),
        };
        Some((hash, stored))
    }

    fn find_by_id(&mut self, hash: u64, index: EventIndex) {
        let Self { ids, texts, by_id } = self;
        by_id.insert_unique(hash, index, |index| hash_at(ids, texts, *index));
    }

    /// Returns the places of the ids that are here, in order.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.ids.iter().map(|(place, _)| place)
    }

    /// Forgets the ids at these places, which are sorted; their numbers stay taken.
    pub(super) fn take_out(&mut self, places: &[usize]) {
        let Self { ids, texts, by_id } = self;
        for index in places.iter().filter_map(|place| EventIndex::from_usize(*place)) {
            if let Ok(found) = by_id.find_entry(hash_at(ids, texts, index), |other| *other == index) {
                found.remove();
            }
        }
        ids.take_out(places);
        // What grows again soon is not given back.
        by_id.shrink_to(by_id.len() * 2, |index| hash_at(ids, texts, *index));
        let mut left = Arena::default();
        for stored in ids.values_mut() {
            if let Err(span) = stored.spelled()
                && let Some(span) = left.store(texts.get(span))
            {
                *stored = StoredId::of_text(span);
            }
        }
        *texts = left;
    }

    /// Puts an id back that was taken out; `None` if there is no room for it.
    pub(super) fn put_back(&mut self, index: EventIndex, event_id: &EventId) -> Option<()> {
        let (hash, stored) = self.stored(event_id)?;
        self.ids.put_back(index.as_usize(), stored);
        self.find_by_id(hash, index);
        Some(())
    }

    /// Returns the id at a place, nothing if there is none.
    pub(super) fn text(&self, place: usize) -> IdText<'_> {
        let Some(stored) = self.ids.get(place) else { return IdText::Text(&[]) };
        match stored.spelled() {
            Ok(alphabet) => {
                let mut text = [b'$'; HASH_ID_LEN];
                if let Some(hash) = text.get_mut(1..) {
                    alphabet.encode(&stored.bytes, hash);
                }
                IdText::Hash(text)
            }
            Err(span) => IdText::Text(self.texts.get(span)),
        }
    }

    pub(super) fn get(&self, place: usize) -> EventId {
        // Ids come in as texts, so they go out as such. An id that is not there is only asked for by a computation that runs on what
        // there is, and whose result does not count.
        match std::str::from_utf8(self.text(place).as_bytes()) {
            Ok(text) if !text.is_empty() => EventId::of_checked(text),
            _ => EventId::of_checked("$absent"),
        }
    }

    fn is(&self, index: EventIndex, wanted: &Spelled<'_>) -> bool {
        let Some(stored) = self.ids.get(index.as_usize()) else { return false };
        match (stored.spelled(), wanted) {
            (Ok(alphabet), Spelled::Hash(wanted_alphabet, wanted)) => {
                alphabet == *wanted_alphabet && stored.bytes == *wanted
            }
            (Err(span), Spelled::Text(wanted)) => self.texts.get(span) == wanted.as_bytes(),
            _ => false,
        }
    }
}

fn hash_at(ids: &Column<StoredId>, texts: &Arena<u8>, index: EventIndex) -> u64 {
    ids.get(index.as_usize()).map_or(0, |stored| match stored.spelled() {
        Ok(_) => hash_of_hash(&stored.bytes),
        Err(span) => hash_of_bytes(texts.get(span)),
    })
}

/// An id, as it is stored.
enum Spelled<'a> {
    Hash(Base64Alphabet, [u8; 32]),
    Text(&'a str),
}

impl<'a> Spelled<'a> {
    fn of(event_id: &'a EventId) -> Self {
        let text = event_id.as_str();
        let hash = text.get(1..).filter(|_| text.len() == HASH_ID_LEN).and_then(Base64Alphabet::decode_hash);
        hash.map_or(Self::Text(text), |(alphabet, bytes)| Self::Hash(alphabet, bytes))
    }

    fn hash(&self) -> u64 {
        match self {
            Self::Hash(_, bytes) => hash_of_hash(bytes),
            Self::Text(text) => hash_of_bytes(text.as_bytes()),
        }
    }
}

/// Who wants ids to lie close together in the table has to try as many events for each as the table has places, and gains look-ups
/// that compare some more bytes.
fn hash_of_hash(bytes: &[u8; 32]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::{EventIds, StoredId};
    use crate::id::EventId;

    #[test]
    fn ids_come_out_as_they_went_in() {
        let ids = [
            "$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc",
            "$8yif6p8EqgoSten2BLje9ntKm72-_yFLWQv9tn8memc",
            "$8yif6p8EqgoSten2BLje9ntKm72+/yFLWQv9tn8memc",
            // The last character has bits beyond the 32 bytes.
            "$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memd",
            "$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8meém",
            "$event:domain",
            "$x",
        ]
        .map(|id| EventId::parse(id).unwrap());
        let mut table = EventIds::default();
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(table.index_of(id), None);
            assert_eq!(table.push(id).unwrap().as_usize(), place);
        }
        for (place, id) in ids.iter().enumerate() {
            let index = table.index_of(id).unwrap();
            assert_eq!((index.as_usize(), &table.get(place)), (place, id));
            assert_eq!(table.text(place).as_bytes(), id.as_str().as_bytes());
        }
        assert_eq!(table.len(), ids.len());
        assert_eq!(size_of::<StoredId>(), 33);
    }
}
