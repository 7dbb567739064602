//! Servers in one process that join each other's rooms, over their real routes.

mod deep;
mod hostile;
mod invites;
mod joins;
mod knocks;
mod large;
mod media;
mod messages;
mod restricted;
mod third_party;
mod world;
